"""The channels of a gate: for every tap of its window, a weighted sum of how far each channel is from its reference.

A window's score is a sum of such numbers, one per tap, so what changed is read once however many windows see it.
"""

from operator import add
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.active import own_part
from skipfx.runtime.kernels.approach import READ, ask
from skipfx.runtime.kernels.lanes import fold
from skipfx.runtime.kernels.memory import address
from skipfx.runtime.kernels.table import LANES, MASK, SHIFT, TAPS, Cell, Column

K = Column
AHEAD = 3  # tiles: what is asked for so long before it is read; references have left the caches
PIXELS = 4  # of a register tile, which holds a vector for each and each of TAPS


@T.inline
def add_block(mem: Any, sums: Any, here: Any, there: Any, at: Any, run: Any, weight: Any) -> None:
    """Adds a vector of channels, of which those below `run` count; weights are packed [TAPS, LANES]."""
    for p in T.unroll(PIXELS):
        size = T.alloc_buffer((LANES,), "float32")
        for v in T.vectorized(LANES):
            moved = T.meta_var(T.abs(mem.a[here[p] + at + v] - mem.a[there[p] + at + v]))
            size[v] = moved if run is None else T.Select(at + v < run, moved, T.float32(0))
        for tap in T.unroll(TAPS):
            for v in T.vectorized(LANES):
                sums[p * TAPS + tap, v] = sums[p * TAPS + tap, v] + size[v] * mem.w[weight + tap * LANES + v]


@T.inline
def weigh(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """The numbers of all taps, at the task's part of the list; a refresh needs none, since it moves the reference."""
    start = T.Bind(own_part(mem, task, tasks, row))
    number = T.Bind(T.Select(mem.n[T.int64(Cell.REFRESH)] > 0, T.int64(0), mem.n[mem.c[row + K.LIST_COUNT] + task]))
    taps = T.Bind(mem.c[row + K.CHANNELS])
    channels = T.Bind(mem.c[row + K.RUN])
    whole = T.Bind(channels // LANES)
    blocks = T.Bind((channels + (LANES - 1)) // LANES)
    for tile in range((number + (PIXELS - 1)) // PIXELS):
        here, there, out, next_here, next_there = T.meta_var([T.alloc_buffer((PIXELS,), "int64") for _ in range(5)])
        for p in T.unroll(PIXELS):
            soon = T.Bind(mem.q[start + T.min((tile + AHEAD) * PIXELS + p, number - 1)])
            next_here[p] = address(mem, row + K.IN, soon >> SHIFT, soon & MASK)
            next_there[p] = address(mem, row + K.REFERENCE, soon >> SHIFT, soon & MASK)
            position = T.Bind(mem.q[start + tile * PIXELS + p])
            here[p] = address(mem, row + K.IN, position >> SHIFT, position & MASK)
            there[p] = address(mem, row + K.REFERENCE, position >> SHIFT, position & MASK)
            out[p] = address(mem, row + K.OUT, position >> SHIFT, position & MASK)
        for group in range((taps + (TAPS - 1)) // TAPS):
            sums = T.alloc_buffer((PIXELS * TAPS, LANES), "float32")
            weight = T.Bind(mem.c[row + K.WEIGHT] + group * blocks * (TAPS * LANES))
            for p in T.unroll(PIXELS * TAPS):
                for v in T.vectorized(LANES):
                    sums[p, v] = T.float32(0)
            for block in range(whole):
                if group == 0:  # a line now and then: more at once would wait for one another
                    for p in T.unroll(PIXELS):
                        ask(mem.a, next_here[p] + block * LANES, READ)
                        ask(mem.a, next_there[p] + block * LANES, READ)
                add_block(mem, sums, here, there, block * LANES, None, weight + block * (TAPS * LANES))
            if blocks > whole:
                add_block(mem, sums, here, there, whole * LANES, channels, weight + whole * (TAPS * LANES))
            for tap in T.unroll(TAPS):
                if group * TAPS + tap < taps:
                    for p in T.unroll(PIXELS):
                        total = T.alloc_buffer((LANES,), "float32")
                        for v in T.vectorized(LANES):
                            total[v] = sums[p * TAPS + tap, v]
                        fold(total, add)
                        mem.a[out[p] + group * TAPS + tap] = total[0]
