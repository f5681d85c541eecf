"""What compiles a kernel module for a target: one file each, listed here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from skipfx.errors import CompileError, OptionError
from skipfx.plan import Plan
from skipfx.runtime.backends.levels import target_levels
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.table import Precision, Tile

if TYPE_CHECKING:
    from tvm.target import Target


class Backend(NamedTuple):
    """A kind of target.

    Attributes:
        prepare: what becomes of a plan first.
        tiles: (target, precision) -> the register tiles that suit it.
        compile: (target, image) -> files of code and the level it needs.
    """

    prepare: Callable[[Plan], Plan]
    tiles: Callable[[str, Precision], tuple[Tile, ...]]
    compile: Callable[[str, Image], tuple[tuple[bytes, ...], str]]


def named(target: "str | Target") -> str:
    """A target by its name, where it is an object of TVM: the best level that its features allow, or its architecture.

    Raises:
        CompileError: it is neither for CPUs nor for CUDA, or has too few features.
    """
    if isinstance(target, str):
        return target
    if target.kind.name == "cuda":
        return f"cuda:{target.attrs['arch']}"
    if target.kind.name != "llvm":
        raise CompileError(f"target kind {target.kind.name!r} is not supported; expected llvm or cuda")
    levels = target_levels(target)
    if not levels:
        raise CompileError(f"{target}: has too few features; name a CPU, as mcpu=znver4")
    return f"cpu:{levels[-1]}"


def backend(target: str, tuned: Path | None = None) -> Backend:
    """What lowers to the kind of target that `target` names, as "cpu", "cpu:x86-64-v3" or "cuda:sm_80".

    Args:
        target: its name.
        tuned: a table of schedules for GPUs; None: the one that ships.

    Raises:
        CompileError: there is no such kind.
        OptionError: a CPU is to take a table.
        ArtifactError: the table cannot be read, or is none.
    """
    kind = target.partition(":")[0]
    if kind == "cpu":
        if tuned is not None:
            raise OptionError(f"tuned: {tuned} has schedules for GPUs; compile for one, as with target='cuda'")
        from skipfx.runtime.backends.cpu import compile_cpu, tiles_cpu

        return Backend(lambda plan: plan, tiles_cpu, compile_cpu)
    if kind == "cuda":
        from skipfx.runtime.backends.cuda import compile_cuda, tiles_cuda
        from skipfx.runtime.dense.flatten import flatten
        from skipfx.runtime.kernels.cuda.tuned import read_table

        return Backend(flatten, tiles_cuda, partial(compile_cuda, table=None if tuned is None else read_table(tuned)))
    raise CompileError(
        f"target {target!r} is unknown; expected cpu or cpu:NAME, with NAME such as x86-64-v3 or znver4, or cuda or "
        "cuda:ARCHITECTURE, with ARCHITECTURE such as sm_80"
    )
