"""The kernels that a network needs on a GPU, and the launches that each row of its table stands for."""

from typing import Any, Final, NamedTuple

from tvm import IRModule
from tvm.ir import GlobalVar
from tvm.script import tirx as T

from skipfx.runtime.gpu.launches import Pairs, kernel_name
from skipfx.runtime.image import EpilogueSpec
from skipfx.runtime.kernels.cuda.active import active, keep
from skipfx.runtime.kernels.cuda.conv import conv, depthwise
from skipfx.runtime.kernels.cuda.emit import emit
from skipfx.runtime.kernels.cuda.epilogue import epilogue
from skipfx.runtime.kernels.cuda.frames import begin, clear, commit, compare, decide, dilate
from skipfx.runtime.kernels.cuda.gate import follow, open_blocks, score, weigh
from skipfx.runtime.kernels.cuda.maps import move, pool, resize
from skipfx.runtime.kernels.cuda.reduce import REDUCTIONS
from skipfx.runtime.kernels.cuda.schedule import schedule
from skipfx.runtime.kernels.cuda.streams import common, listed
from skipfx.runtime.kernels.cuda.thread import Body, device, share
from skipfx.runtime.kernels.epilogue import value_of
from skipfx.runtime.kernels.table import POSITIONS, Cell, Column, Core, CoreSpec

K = Column

STEPS: Final[dict[str, Body]] = {
    "clear": clear,
    "begin": begin,
    "dilate": dilate,
    "decide": decide,
    "commit": commit,
    "active": active,
    "keep": keep,
    "open_blocks": open_blocks,
    "emit": emit,
}
TILED: Final[dict[str, Body]] = {"weigh": weigh, "score": score, "follow": follow}
CORES: Final[dict[Core, Body]] = {
    Core.DEPTHWISE: depthwise,
    Core.MAX_POOL: pool(maximum=True),
    Core.AVG_POOL: pool(maximum=False),
    Core.RESIZE: resize,
    Core.MOVE: move,
} | REDUCTIONS


class Kernels(NamedTuple):
    """What a module must hold.

    Attributes:
        steps: names of kernels without a core, in alphabetical order.
        pairs: numbers of a core and of the epilogue behind it (`skipfx.runtime.gpu.launches`).
        cores, epilogues: what the numbers stand for (`skipfx.runtime.image.Image`).
    """

    steps: tuple[str, ...]
    pairs: Pairs
    cores: tuple[CoreSpec, ...]
    epilogues: tuple[EpilogueSpec, ...]


def cuda_module(found: Kernels, architecture: str) -> IRModule:
    """The kernels of a network for an architecture, "sm_80", and for all that are scheduled alike."""
    steps = STEPS | {name: _tiled(None, body) for name, body in TILED.items()}
    kernels = {name: compare if name == "compare" else _unless_bad(steps[name]) for name in found.steps}
    for core, number in found.pairs:
        body = None if core < 0 else _core(found.cores[core], architecture)
        kernels[kernel_name(core, number)] = _unless_bad(_tiled(body, epilogue(value_of(*found.epilogues[number]))))
    return IRModule({GlobalVar(name): device(name, body) for name, body in kernels.items()})


def _core(spec: CoreSpec, architecture: str) -> Body:
    core, tile = spec
    if core is not Core.CONV:
        return CORES[core]
    assert tile is not None and tile.precision is not None
    return conv(schedule(tile.precision, architecture))


def _unless_bad(body: Body) -> Body:
    """Leaves the states alone where any frame holds NaN."""

    @T.inline
    def guarded(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        if common(mem, Cell.SPOILT) == 0:
            body(mem, block, blocks, thread, row)

    return guarded


def _tiled(core: Body | None, end: Body) -> Body:
    """Goes through a row's list tile by tile; a block's scratch holds one tile."""

    @T.inline
    def walk(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        total = T.Bind(mem.n[listed(mem, row)])
        first = T.Bind(mem.c[row + K.LIST] * mem.streams)
        scratch = T.Bind(mem.c[row + K.SCRATCH] * mem.streams + block * mem.c[row + K.SCRATCH_SIZE])
        for i in range(share((total + (POSITIONS - 1)) // POSITIONS, block, blocks)):
            at = T.Bind((block + i * blocks) * POSITIONS)
            count = T.Bind(T.min(total - at, T.int64(POSITIONS)))
            if core is not None:
                core(mem, thread, row, first + at, count, scratch)
            end(mem, thread, row, first + at, count, scratch)

    return walk
