"""The kernels that a network needs on a GPU, and the launches that each row of its table stands for."""

from functools import cache
from typing import Any, Final, NamedTuple

from tvm import IRModule
from tvm.ir import GlobalVar
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from skipfx.runtime.dense.kernel import Kernel
from skipfx.runtime.gpu.launches import Pairs, dense_name, kernel_name
from skipfx.runtime.image import EpilogueSpec
from skipfx.runtime.kernels.cuda.active import active, keep
from skipfx.runtime.kernels.cuda.conv import conv, depthwise
from skipfx.runtime.kernels.cuda.dense import dense, give, settle
from skipfx.runtime.kernels.cuda.emit import emit
from skipfx.runtime.kernels.cuda.epilogue import epilogue
from skipfx.runtime.kernels.cuda.frames import begin, clear, commit, compare, decide, dilate
from skipfx.runtime.kernels.cuda.gate import follow, open_blocks, score, weigh
from skipfx.runtime.kernels.cuda.maps import move, resize
from skipfx.runtime.kernels.cuda.pool import pool
from skipfx.runtime.kernels.cuda.reduce import REDUCTIONS
from skipfx.runtime.kernels.cuda.schedule import Schedule
from skipfx.runtime.kernels.cuda.streams import common, listed
from skipfx.runtime.kernels.cuda.thread import Body, device, share
from skipfx.runtime.kernels.cuda.tuned import Table
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
    "give": give,
    "settle": settle,
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
        dense: those of dense islands, by number.
        table: of the convolutions' schedules.
    """

    steps: tuple[str, ...]
    pairs: Pairs
    cores: tuple[CoreSpec, ...]
    epilogues: tuple[EpilogueSpec, ...]
    dense: tuple[Kernel, ...]
    table: Table


def cuda_module(found: Kernels, architecture: str) -> IRModule:
    """The kernels of a network for an architecture, "sm_80", and for all that have the same `schedules`."""
    kernels = {name: _step(name) for name in found.steps}
    for core, number in found.pairs:
        spec = None if core < 0 else found.cores[core]
        cut = _schedule(spec, found.table, architecture)
        kernels[kernel_name(core, number)] = _compute(None if spec is None else spec[0], cut, found.epilogues[number])
    kernels |= {dense_name(number): _dense(kernel) for number, kernel in enumerate(found.dense)}
    return IRModule({GlobalVar(name): kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()})


def schedules(found: Kernels, architecture: str) -> tuple[Schedule, ...]:
    """What of the kernels depends on the architecture."""
    return tuple(
        found.table.schedule(tile, architecture) for core, tile in found.cores if core is Core.CONV and tile is not None
    )


def _schedule(spec: CoreSpec | None, table: Table, architecture: str) -> Schedule | None:
    core, tile = spec or (None, None)
    return table.schedule(tile, architecture) if core is Core.CONV and tile is not None else None


@cache
def _step(name: str) -> PrimFunc:
    """A kernel without a core. That of one network serves the next one in the same process, as those below do."""
    if name == "compare":
        return device(name, compare)
    body = STEPS[name] if name in STEPS else _tiled(None, TILED[name])
    return device(name, _unless_bad(body), ("float32", "uint8") if name == "give" else ())


@cache
def _compute(core: Core | None, cut: Schedule | None, end: EpilogueSpec) -> PrimFunc:
    """A kernel with a core, of a convolution by its schedule, and the epilogue behind it."""
    value = value_of(*end)
    if cut is not None:
        return device("compute", _unless_bad(_tiled(conv(cut), epilogue(value, cut.positions), full=cut.positions)))
    return device("compute", _unless_bad(_tiled(None if core is None else CORES[core], epilogue(value, POSITIONS))))


@cache
def _dense(kernel: Kernel) -> PrimFunc:
    return device("dense", _unless_bad(dense(kernel)), kernel.dtypes)


def _unless_bad(body: Body) -> Body:
    """Leaves the states alone where any frame holds NaN."""

    @T.inline
    def guarded(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        if common(mem, Cell.SPOILT) == 0:
            body(mem, block, blocks, thread, row)

    return guarded


def _tiled(core: Body | None, end: Body, *, full: int = 0) -> Body:
    """Goes through a row's list tile by tile; a block's scratch holds one tile.

    Args:
        core: what is done with a tile first, if anything.
        end: what is done with it then.
        full: positions of a tile that costs the same however much is in it. 0: a list is spread over all blocks.
    """

    @T.inline
    def walk(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        total = T.Bind(mem.n[listed(mem, row)])
        each = T.meta_var(T.max(T.min(share(total, T.int64(0), blocks), T.int64(POSITIONS)), T.int64(1)))
        size = T.Bind(T.int64(full) if full > 0 else each)
        first = T.Bind(mem.c[row + K.LIST] * mem.streams)
        scratch = T.Bind(mem.c[row + K.SCRATCH] * mem.streams + block * mem.c[row + K.SCRATCH_SIZE])
        for i in range(share(share(total, T.int64(0), size), block, blocks)):
            at = T.Bind((block + i * blocks) * size)
            count = T.Bind(T.min(total - at, size))
            if core is not None:
                core(mem, thread, row, first + at, count, scratch)
            end(mem, thread, row, first + at, count, scratch)

    return walk
