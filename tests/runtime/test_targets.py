"""What a target's name stands for, and the register tiles that follow from it."""

from typing import Any

import pytest
from tvm.target import Target

from skipfx.errors import CompileError
from skipfx.runtime.backends import backend, named
from skipfx.runtime.backends.cpu import TILES
from skipfx.runtime.backends.levels import ARM, X86, cpu_levels, host_levels
from skipfx.runtime.kernels.table import TILE


@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ("znver4", "x86-64-v4"),
        ("skylake-avx512", "x86-64-v4"),
        ("haswell", "x86-64-v3"),
        ("nehalem", "x86-64-v2"),
        ("neoverse-n1", "armv8-a"),
    ],
)
def test_a_cpu_by_name(cpu: str, level: str) -> None:
    assert cpu_levels(cpu)[-1] == level
    assert backend("cpu").tiles(f"cpu:{cpu}", "fp32") == TILES[level]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ({"kind": "llvm", "mcpu": "znver4"}, "cpu:x86-64-v4"),
        ({"kind": "llvm", "mcpu": "x86-64", "mattr": ["+ssse3", "+sse4.2", "+popcnt"]}, "cpu:x86-64-v2"),
        ({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"}, "cpu:armv8-a"),
        ({"kind": "cuda", "arch": "sm_80"}, "cuda:sm_80"),
    ],
)
def test_a_target_of_tvm(target: dict[str, Any], name: str) -> None:
    assert named(Target(target)) == name


@pytest.mark.parametrize(
    ("target", "reason"), [({"kind": "llvm"}, "too few features"), ({"kind": "c"}, "expected llvm")]
)
def test_targets_of_tvm_that_do_not_fit(target: dict[str, Any], reason: str) -> None:
    with pytest.raises(CompileError, match=reason):
        named(Target(target))


@pytest.mark.parametrize("target", ["cpu:abacus", "cpu:core2", "abacus"])
def test_unknown_targets(target: str) -> None:
    with pytest.raises(CompileError, match="expected"):
        backend(target).tiles(target, "fp32")


def test_every_level_has_tiles_that_fill_a_list() -> None:
    assert TILES.keys() == X86.keys() | ARM.keys()
    assert all(TILE % tile.positions == 0 for tiles in TILES.values() for tile in tiles)
    assert backend("cpu").tiles("cpu", "fp32") == TILES[host_levels()[-1]]
