# mypy: disable-error-code="valid-type, no-untyped-def"
"""The one function of a compiled network: walks the rows of a segment, all threads in step.

Rows come in three runs: those that take in what is new, those that compute, and those that give out. Where nothing that
was taken in has changed, those that compute are left out. The threads are started once per call; between rows they meet
at a barrier. A row that has nothing to do costs a few loads per thread.

All of it is the same for every network. Cores and epilogues are called through `run_core`, `run_end`, `run_fused`
and `run_hold`, which know those of a network by their numbers (`skipfx.runtime.kernels.modules`).
"""

from collections.abc import Callable
from typing import Any

from tvm import IRModule
from tvm.ir import GlobalVar
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from skipfx.runtime.kernels.active import active
from skipfx.runtime.kernels.approach import approach
from skipfx.runtime.kernels.change import clear, commit, compare, decide, dilate
from skipfx.runtime.kernels.emit import emit
from skipfx.runtime.kernels.gate import follow, keep, open_blocks, score
from skipfx.runtime.kernels.memory import Memory, call, kernel, switch
from skipfx.runtime.kernels.table import TILE, Cell, Column, Op
from skipfx.runtime.kernels.weigh import weigh

K = Column


@T.inline
def compute(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Splits the active list evenly over the tasks; chunk by chunk, runs all panels and the hold test behind them."""
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
                mem.c[row + K.LIST] + (mem.c[row + K.HEIGHT] * segment // tasks) * mem.c[row + K.WIDTH] + segment * TILE
            )
            if end > begin:
                for part in range((end - begin + chunk - 1) // chunk):
                    at = T.Bind((begin + part * chunk) * TILE)
                    number = T.Bind(T.min(T.min((end - begin - part * chunk), chunk) * TILE, length - at))
                    approach(mem, row, start + at, number)
                    for panel in range(mem.c[row + K.GROUPS] * mem.c[row + K.PANELS]):
                        if whole:
                            call("run_fused", mem, task, tasks, row, start + at, number, panel)
                        else:
                            call("run_core", mem, task, tasks, row, start + at, number, panel)
                            if mem.n[T.int64(Cell.REFRESH)] > 0:
                                call("run_end", mem, task, tasks, row, start + at, number, panel)
                    if mem.n[T.int64(Cell.REFRESH)] == 0:
                        call("run_hold", mem, task, tasks, row, start + at, number, T.int64(0))
    if mem.n[T.int64(Cell.REFRESH)] > 0:
        mem.n[mem.c[row + K.COUNT] + task] = (high - low) * TILE


STEPS: dict[Op, Callable[..., None]] = {
    Op.CLEAR: clear,
    Op.COMPARE: compare,
    Op.DILATE: dilate,
    Op.DECIDE: decide,
    Op.COMMIT: commit,
    Op.LIST: active,
    Op.COMPUTE: compute,
    Op.EMIT: emit,
    Op.KEEP: keep,
    Op.OPEN: open_blocks,
    Op.WEIGH: weigh,
    Op.SCORE: score,
    Op.FOLLOW: follow,
}


def step_module() -> IRModule:
    """The module that holds `step`, and the kernels that every network has."""
    names = {op: GlobalVar(op.name.lower()) for op in STEPS}
    kernels = {names[op]: kernel(body) for op, body in STEPS.items()}
    return IRModule(kernels | {GlobalVar("step"): _step(names)})


def stirred(mem: Memory, rows: Any) -> Any:
    """The rows that compute: none where nothing that was taken in has changed. After a barrier all threads agree."""
    return T.Select(mem.n[T.int64(Cell.STIRRED)] > 0, rows, T.int64(0))


def _step(kernels: dict[Op, GlobalVar]) -> PrimFunc:
    run = switch(K.OP, kernels)

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
