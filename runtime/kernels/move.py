"""Moving values at arbitrary positions: a place per output row, column and channel, from tables; their sum is read."""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES, MASK, OUTSIDE, SHIFT, Column

K = Column


@T.inline
def move(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """The values that the tables name, or the fill where row or column lie outside."""
    scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    channels = T.Bind(mem.c[row + K.TABLE_C])
    fill = T.Bind(mem.w[mem.c[row + K.WEIGHT]])
    for i in range(count):
        above = T.Bind(mem.c[mem.c[row + K.TABLE_H] + (mem.q[first + i] >> SHIFT)])
        left = T.Bind(mem.c[mem.c[row + K.TABLE_W] + (mem.q[first + i] & MASK)])
        out = T.Bind(scratch + i * mem.c[row + K.SCRATCH_PITCH])
        for block in range(mem.c[row + K.BLOCKS]):
            if T.Or(above == OUTSIDE, left == OUTSIDE):
                for v in T.vectorized(LANES):
                    mem.a[out + block * LANES + v] = fill
            else:
                base = T.Bind(mem.c[row + K.IN] + above + left)
                for v in T.vectorized(LANES):
                    mem.a[out + block * LANES + v] = mem.a[base + mem.c[channels + block * LANES + v]]
