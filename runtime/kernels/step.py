# mypy: disable-error-code="valid-type, no-untyped-def"
"""The one function of a compiled module: walks the rows of a segment, all threads in step.

Rows come in three runs: those that take in what is new, those that compute, and those that give out. Where nothing that
was taken in has changed, those that compute are left out. The threads are started once per call; between rows they meet
at a barrier. A row that has nothing to do costs a few loads per thread.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import IRModule
from tvm.ir import GlobalVar
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from skipfx.runtime.image import EpilogueSpec, Fused
from skipfx.runtime.kernels import reduce
from skipfx.runtime.kernels.active import active
from skipfx.runtime.kernels.approach import approach
from skipfx.runtime.kernels.change import clear, commit, compare, decide, dilate
from skipfx.runtime.kernels.conv import End, conv, depthwise, to_scratch
from skipfx.runtime.kernels.emit import emit
from skipfx.runtime.kernels.epilogue import epilogue, settle, to_map, value_of
from skipfx.runtime.kernels.gate import follow, keep, open_blocks, score
from skipfx.runtime.kernels.memory import Memory, kernel
from skipfx.runtime.kernels.move import move
from skipfx.runtime.kernels.pool import pool
from skipfx.runtime.kernels.resize import resize
from skipfx.runtime.kernels.table import TILE, Cell, Column, Core, CoreSpec, Op, Tile
from skipfx.runtime.kernels.weigh import weigh

K = Column
Body = Callable[..., None]

STEPS: dict[Op, Body] = {
    Op.CLEAR: clear,
    Op.COMPARE: compare,
    Op.DILATE: dilate,
    Op.DECIDE: decide,
    Op.COMMIT: commit,
    Op.LIST: active,
    Op.EMIT: emit,
    Op.KEEP: keep,
    Op.OPEN: open_blocks,
    Op.WEIGH: weigh,
    Op.SCORE: score,
    Op.FOLLOW: follow,
}
TILED: dict[Core, Callable[[Tile, End], Body]] = {Core.CONV: conv, Core.DEPTHWISE: depthwise}
CORES: dict[Core, Body] = {
    Core.MAX_POOL: pool(maximum=True),
    Core.AVG_POOL: pool(maximum=False),
    Core.RESIZE: resize,
    Core.MOVE: move,
    Core.SUM: reduce.channel_sum,
    Core.MAX: reduce.channel_max,
    Core.MIN: reduce.channel_min,
    Core.ARGMAX: reduce.channel_argmax,
    Core.NORM: reduce.channel_norm,
    Core.SOFTMAX: reduce.channel_softmax,
    Core.LOG_SOFTMAX: reduce.channel_log_softmax,
}


def step_module(cores: Sequence[CoreSpec], epilogues: Sequence[EpilogueSpec], fused: Sequence[Fused]) -> IRModule:
    """The module for the given cores and epilogues in the order of their numbers, and for some of both in one."""
    functions: dict[GlobalVar, PrimFunc] = {}

    def define(name: str, body: Body) -> GlobalVar:
        variable = GlobalVar(name)
        functions[variable] = kernel(body)
        return variable

    values = [value_of(*spec) for spec in epilogues]
    used = {number: define(f"core_{number}", _core(spec, to_scratch)) for number, spec in enumerate(cores)}
    ends = {number: define(f"epilogue_{number}", epilogue(value)) for number, value in enumerate(values)}
    both = {
        number: define(f"fused_{number}", _core(cores[one.core], to_map(values[one.epilogue], one.cut)))
        for number, one in enumerate(fused)
    }
    steps = {op: define(op.name.lower(), body) for op, body in STEPS.items()}
    steps[Op.COMPUTE] = define("compute", _compute(used, ends, both, define("settle", settle)))
    functions[GlobalVar("step")] = _step(steps)
    return IRModule(functions)


def _switch(column: int, table: dict[Any, GlobalVar]) -> Callable[..., None]:
    """Calls the function whose number stands in a column of the row."""

    def build(mem: Memory, *arguments: Any) -> None:
        for number, function in table.items():
            with T.If(mem.c[arguments[2] + column] == int(number)), T.Then():
                _call(function, mem, *arguments)

    return build


def _call(function: GlobalVar, mem: Memory, *arguments: Any) -> None:
    T.evaluate(function(*arguments, *(buffer.data for buffer in mem)))


def _core(spec: CoreSpec, end: End) -> Body:
    core, tile = spec
    return CORES[core] if tile is None else TILED[core](tile, end)


def _compute(
    cores: dict[int, GlobalVar], ends: dict[int, GlobalVar], fused: dict[int, GlobalVar], last: GlobalVar
) -> Body:
    """Splits the active list evenly over the tasks; chunk by chunk, runs core and epilogue for every panel."""
    run_core = _switch(K.CORE, cores)
    run_end = _switch(K.EPILOGUE, ends)
    run_fused = _switch(K.FUSED, fused)
    settled = partial(_call, last)

    @T.inline
    def compute(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        counts = T.Bind(mem.c[row + K.LIST_COUNT])
        chunk = T.Bind(mem.c[row + K.CHUNK])
        whole = T.Bind(T.And(mem.n[T.int64(Cell.REFRESH)] > 0, mem.c[row + K.FUSED] >= 0))
        tiles = T.alloc_buffer((2,), "int64")  # all of them; those of the segments so far
        tiles[0] = T.int64(0)
        tiles[1] = T.int64(0)
        mem.n[mem.c[row + K.COUNT] + task] = T.int64(0)
        for segment in range(tasks):
            tiles[0] = tiles[0] + (mem.n[counts + segment] + (TILE - 1)) // TILE
        low = T.Bind(tiles[0] * task // tasks)
        high = T.Bind(tiles[0] * (task + 1) // tasks)
        if high > low:
            for segment in range(tasks):
                length = T.Bind(mem.n[counts + segment])
                mine = T.Bind((length + (TILE - 1)) // TILE)
                begin = T.Bind(T.max(low - tiles[1], T.int64(0)))
                end = T.Bind(T.min(high - tiles[1], mine))
                tiles[1] = tiles[1] + mine
                start = T.Bind(
                    mem.c[row + K.LIST]
                    + (mem.c[row + K.HEIGHT] * segment // tasks) * mem.c[row + K.WIDTH]
                    + segment * TILE
                )
                if end > begin:
                    for part in range((end - begin + chunk - 1) // chunk):
                        at = T.Bind((begin + part * chunk) * TILE)
                        number = T.Bind(T.min(T.min((end - begin - part * chunk), chunk) * TILE, length - at))
                        approach(mem, row, start + at, number)
                        for panel in range(mem.c[row + K.GROUPS] * mem.c[row + K.PANELS]):
                            if whole:
                                run_fused(mem, task, tasks, row, start + at, number, panel)
                            else:
                                run_core(mem, task, tasks, row, start + at, number, panel)
                                run_end(mem, task, tasks, row, start + at, number, panel)
                        if mem.n[T.int64(Cell.REFRESH)] == 0:
                            settled(mem, task, tasks, row, start + at, number, T.int64(0))
        if mem.n[T.int64(Cell.REFRESH)] > 0:
            mem.n[mem.c[row + K.COUNT] + task] = (high - low) * TILE

    return compute


def stirred(mem: Memory, rows: Any) -> Any:
    """The rows that compute: none where nothing that was taken in has changed. After a barrier all threads agree."""
    return T.Select(mem.n[T.int64(Cell.STIRRED)] > 0, rows, T.int64(0))


def _step(steps: dict[Op, GlobalVar]) -> PrimFunc:
    run = _switch(K.OP, steps)

    @T.inline
    def walk(mem: Any, task: Any, tasks: Any, row: Any) -> None:
        if T.Or(mem.n[T.int64(Cell.BAD)] == 0, mem.c[row + K.OP] <= int(Op.COMPARE)):
            run(mem, task, tasks, row, T.int64(0), T.int64(0), T.int64(0))

    @T.inline
    def together(mem: Any, tasks: Any, begin: Any, rows: Any) -> None:
        for i in range(rows):
            with T.attr(0, "pragma_parallel_barrier_when_finish", 1):
                for task in T.parallel(tasks):
                    walk(mem, task, tasks, begin + i * K.NUMBERS)

    # fmt: off
    @T.prim_func(s_tir=True)
    def step(
        ah: T.handle, mh: T.handle, sh: T.handle, qh: T.handle, nh: T.handle, wh: T.handle, ch: T.handle, fh: T.handle,
        oh: T.handle, begin: T.int64, takes: T.int64, computes: T.int64, gives: T.int64, tasks: T.int64,
    ):
        T.func_attr({"tir.noalias": True, "global_symbol": "step"})
        an, mn, sn, qn, nn, wn, cn, fn, on = T.int64(), T.int64(), T.int64(), T.int64(), T.int64(), T.int64(), T.int64(), T.int64(), T.int64()  # noqa: E501
        a = T.match_buffer(ah, (an,), "float32", align=4)
        m = T.match_buffer(mh, (mn,), "uint8", align=1)
        s = T.match_buffer(sh, (sn,), "uint8", align=1)
        q = T.match_buffer(qh, (qn,), "int64", align=8)
        n = T.match_buffer(nh, (nn,), "int64", align=8)
        w = T.match_buffer(wh, (wn,), "float32", align=4)
        c = T.match_buffer(ch, (cn,), "int64", align=8)
        f = T.match_buffer(fh, (fn,), "float32", align=4)
        o = T.match_buffer(oh, (on,), "float32", align=4)
        mem = T.meta_var(Memory(a, m, s, q, n, w, c, f, o))
        if tasks == 1:
            for i in range(takes):
                walk(mem, T.int64(0), tasks, begin + i * K.NUMBERS)
            for i in range(stirred(mem, computes)):
                walk(mem, T.int64(0), tasks, begin + (takes + i) * K.NUMBERS)
            for i in range(gives):
                walk(mem, T.int64(0), tasks, begin + (takes + computes + i) * K.NUMBERS)
        else:
            with T.attr(0, "pragma_parallel_launch_point", 1):
                together(mem, tasks, begin, takes)
                together(mem, tasks, begin + takes * K.NUMBERS, stirred(mem, computes))
                together(mem, tasks, begin + (takes + computes) * K.NUMBERS, gives)
    # fmt: on

    return step
