"""What compiles a kernel module for a target: one file each, listed here."""

from collections.abc import Callable
from typing import NamedTuple

from skipfx.errors import CompileError
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.table import Tile


class Backend(NamedTuple):
    """A kind of target.

    Attributes:
        tiles: target -> the register tiles that suit it.
        compile: (target, image) -> code and the level it needs.
    """

    tiles: Callable[[str], tuple[Tile, ...]]
    compile: Callable[[str, Image], tuple[bytes, str]]


def backend(target: str) -> Backend:
    """What lowers to the kind of target that `target` names, as "cpu", "cpu:x86-64-v3" or "cuda:sm_80".

    Raises:
        CompileError: there is no such kind.
    """
    kind = target.partition(":")[0]
    if kind == "cpu":
        from skipfx.runtime.backends.cpu import compile_cpu, tiles_cpu

        return Backend(tiles_cpu, compile_cpu)
    if kind == "cuda":
        from skipfx.runtime.backends.cuda import compile_cuda, tiles_cuda

        return Backend(tiles_cuda, compile_cuda)
    raise CompileError(
        f"target {target!r} is unknown; expected cpu or cpu:NAME, with NAME such as x86-64-v3 or znver4, or cuda or "
        "cuda:ARCHITECTURE, with ARCHITECTURE such as sm_80"
    )
