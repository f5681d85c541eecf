"""A driver whose device is the CPU: it runs the launches of an engine for GPUs, with the thread axes as loops."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from numpy.typing import NDArray

from skipfx.errors import DeviceError
from skipfx.runtime.backends import cuda as backend
from skipfx.runtime.gpu import device
from skipfx.runtime.kernels.cuda.module import Kernels, cuda_module
from skipfx.runtime.native import tensor
from tests.runtime.cuda.loops import ORDERS, looped

GUARD = 4096  # bytes around an allocation that nobody may write
PATTERN = 0xA5
PLACE = tensor(np.zeros(1, np.int64))


class LoopDriver:
    """See `skipfx.runtime.gpu.driver.Driver`.

    Args:
        order: of threads and blocks, a key of ORDERS.
        room: bytes of memory.
    """

    kind, index, blocks = 1, 0, 5  # the first two are DLPack's numbers for the CPU

    def __init__(self, order: str = "forwards", room: int = 1 << 32) -> None:
        self.order, self.room = order, room
        # the bytes of an allocation, and which of them were given out
        self.memory: dict[int, tuple[NDArray[np.uint8], int, int]] = {}
        self._held = True
        self.launched: list[str] = []
        self._recorded: list[Callable[[], None]] | None = None

    def runs(self, level: str) -> bool:
        return True

    def enter(self) -> None:
        pass

    def load(self, code: bytes) -> Callable[[str], Any]:
        return lambda name: (name, _compiled(_modules[code], name, self.order))

    def allocate(self, size: int) -> int:
        if size + sum(given for _, _, given in self.memory.values()) > self.room:
            raise DeviceError("the GPU is out of memory")
        block = np.full(size + 2 * GUARD + 64, PATTERN, np.uint8)
        start = GUARD + -(block.ctypes.data + GUARD) % 64
        block[start : start + size] = 0
        self.memory[block.ctypes.data + start] = (block, start, size)
        return int(block.ctypes.data + start)

    def free(self, address: int) -> None:
        self._held &= _intact(*self.memory.pop(address))

    def guards_hold(self) -> bool:
        """Whether nothing was written next to what is allocated, or was."""
        return self._held and all(_intact(*allocation) for allocation in self.memory.values())

    def write(self, address: int, values: NDArray[Any], queue: int) -> None:
        ctypes.memmove(address, values.ctypes.data, values.nbytes)

    def read(self, address: int, values: NDArray[Any], queue: int) -> None:
        ctypes.memmove(values.ctypes.data, address, values.nbytes)

    def wait(self, queue: int) -> None:
        pass

    def copy(self, address: int, source: int, size: int, queue: int) -> None:
        ctypes.memmove(address, source, size)

    def zero(self, address: int, size: int, queue: int) -> None:
        ctypes.memset(address, 0, size)

    def launch(self, kernel: Any, pointers: tuple[int, ...], numbers: tuple[int, ...], queue: int) -> None:
        name, run = kernel
        self.launched.append(name)
        arguments = [ctypes.c_void_p(pointer) for pointer in pointers]
        self._do(lambda: run(*arguments, *numbers, self.blocks, PLACE))

    def record(self, work: Callable[[int], None]) -> Callable[[int], None]:
        recorded: list[Callable[[], None]] = []
        self._recorded = recorded
        try:
            work(0)
        finally:
            self._recorded = None

        def replay(queue: int) -> None:
            for act in recorded:
                act()

        return replay

    def timed(self, work: Callable[[int], None]) -> float:
        """Milliseconds of the loops, which say nothing about a GPU."""
        start = perf_counter()
        work(0)
        return 1e3 * (perf_counter() - start)

    def _do(self, act: Callable[[], Any]) -> None:
        if self._recorded is None:
            act()
        else:
            self._recorded.append(act)


def _intact(block: NDArray[np.uint8], start: int, size: int) -> bool:
    """Whether the bytes around an allocation are as they were made."""
    return bool((block[:start] == PATTERN).all() and (block[start + size :] == PATTERN).all())


_modules: dict[bytes, Any] = {}
_functions: dict[tuple[Any, str], Any] = {}


@cache
def _kept(kernels: Kernels, names: tuple[str, ...]) -> bytes:
    """Stands for the device code; TVM 0.27 cannot write a module down, so this is a key to it."""
    code = repr((kernels, names[-1])).encode()
    _modules[code] = cuda_module(kernels, names[-1])
    return code


def _compiled(module: tvm.IRModule, name: str, order: str) -> Any:
    """A kernel of a module; one that another module holds too is compiled once."""
    kernel = module[name].with_attr("global_symbol", "kernel")
    key = (tvm_ffi.StructuralKey(kernel), order)
    if key not in _functions:
        alone = tvm.IRModule({tvm.ir.GlobalVar("kernel"): kernel})
        target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
        built = tvm.compile(looped(alone, ORDERS[order], late=order != "forwards"), target=target)
        _functions[key] = built["kernel"]
    return _functions[key]


@contextmanager
def loops(driver: LoopDriver) -> Iterator[None]:
    """Inside, "cuda" means the loops: an engine's code is the kernels themselves, and streams run on `driver`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "device_code", _kept)
        patch.setattr(device, "open_driver", lambda: driver)
        yield
