"""Resizing at arbitrary positions: a few weighted rows times a few weighted columns, both read from tables."""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES, MASK, SHIFT, Column

K = Column


@T.inline
def resize(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Sum over taps of row weight x column weight x value."""
    scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    taps_h = T.Bind(mem.c[row + K.TAPS_H])
    taps_w = T.Bind(mem.c[row + K.TAPS_W])
    for i in range(count):
        row_taps = T.Bind((mem.q[first + i] >> SHIFT) * taps_h)
        column_taps = T.Bind((mem.q[first + i] & MASK) * taps_w)
        for block in range(mem.c[row + K.BLOCKS]):
            total = T.alloc_buffer((LANES,), "float32")
            for v in T.vectorized(LANES):
                total[v] = T.float32(0)
            for j in range(taps_h):
                y = T.Bind(mem.c[mem.c[row + K.TABLE_H] + row_taps + j])
                for k in range(taps_w):
                    x = T.Bind(mem.c[mem.c[row + K.TABLE_W] + column_taps + k])
                    at = T.Bind(y * mem.c[row + K.IN_ROW] + x * mem.c[row + K.IN_PIXEL] + block * LANES)
                    weight = T.Bind(
                        mem.w[mem.c[row + K.WEIGHT] + row_taps + j] * mem.w[mem.c[row + K.BIAS] + column_taps + k]
                    )
                    for v in T.vectorized(LANES):
                        total[v] = total[v] + weight * mem.a[mem.c[row + K.IN] + at + v]
            for v in T.vectorized(LANES):
                mem.a[scratch + i * mem.c[row + K.SCRATCH_PITCH] + block * LANES + v] = total[v]
