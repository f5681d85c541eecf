"""Compiled code is kept on disk, kernel by kernel."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from skipfx.build import compile_engine
from skipfx.runtime import Engine
from skipfx.runtime.backends import cpu
from skipfx.transformation import transform
from tests.networks import seeded
from tests.runtime.check import EXACT, noise


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The modules that are compiled from now on, with a cache of its own."""
    modules: list[Any] = []
    compiled = cpu._compile

    def noted(level: str, module: Any) -> bytes:
        modules.append(module)
        return compiled(level, module)

    monkeypatch.setenv("SKIPFX_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setattr(cpu, "_compile", noted)
    return modules


def engine(*layers: nn.Module) -> Engine:
    return compile_engine(transform(seeded(nn.Sequential(*layers)), (noise(1, 3, 8, 8),), gate=EXACT), threads=1)


def test_a_network_is_compiled_once(made: list[Any], tmp_path: Path) -> None:
    first = engine(nn.Conv2d(3, 8, 3), nn.ReLU())
    count = len(made)
    again = engine(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert count == len(first.program.code) == len(list((tmp_path / "a cache").rglob("*.o")))
    assert (len(made), again.program.code) == (count, first.program.code)


def test_networks_share_what_they_have_in_common(made: list[Any]) -> None:
    """Another window and one layer more need nothing new; pooling does."""
    first = engine(nn.Conv2d(3, 8, 3), nn.ReLU())
    made.clear()
    engine(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
    assert not made
    more = engine(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    assert len(made) == 4  # pooling, its end and its hold test, and the calls of all kernels
    assert len(set(first.program.code) & set(more.program.code)) == len(first.program.code) - 1
