"""Where the tests of engines for GPUs run: on the CPU, with threads as loops in three orders, and on a GPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from numpy.typing import NDArray

from skipfx.build import compile_engine
from skipfx.errors import DeviceError
from skipfx.model import SkipModel
from skipfx.runtime import Engine
from skipfx.runtime.gpu.driver import Driver, open_driver
from skipfx.runtime.gpu.memory import DeviceArray
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.loops import ORDERS


@dataclass(frozen=True)
class Place:
    """A device."""

    driver: Driver

    def engine(self, skip: SkipModel, **options: Any) -> Engine:
        """An engine for it, which never refreshes of itself by default, as the PyTorch reference."""
        return compile_engine(skip, target="cuda", **({"dense_above": 1.0} | options))

    def frame(self, values: Any) -> DeviceArray:
        """A frame in its memory."""
        array: NDArray[Any] = values.numpy()
        return DeviceArray.copied(self.driver, array)


@pytest.fixture(params=[*ORDERS, pytest.param("gpu", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Every order of the loops, then the GPU."""
    yield from _places(request.param)


@pytest.fixture(params=["forwards", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The loops in one order, then the GPU: for what does not depend on the order of threads."""
    yield from _places(request.param)


@pytest.fixture(params=["mixed", pytest.param("gpu", marks=pytest.mark.gpu)])
def shuffled(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The loops in the order in which a missing barrier shows, then the GPU: for kernels, in the time of one order."""
    yield from _places(request.param)


def _places(kind: str) -> Iterator[Place]:
    if kind == "gpu":
        try:
            yield Place(open_driver())
        except DeviceError as error:
            pytest.skip(str(error))
    else:
        driver = LoopDriver(kind)
        with loops(driver):
            yield Place(driver)
        assert driver.guards_hold(), "something was written next to an array"
