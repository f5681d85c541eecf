"""Resizing and moving on a GPU, at arbitrary positions: LANES channels of a position side by side."""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import column_of, line_of, stream_of
from skipfx.runtime.kernels.cuda.thread import share
from skipfx.runtime.kernels.table import LANES, OUTSIDE, SIDE_BY_SIDE, Column

K = Column


@T.inline
def resize(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """Sum over taps of row weight x column weight x value."""
    taps_h = T.Bind(mem.c[row + K.TAPS_H])
    taps_w = T.Bind(mem.c[row + K.TAPS_W])
    for i in range(share(count, thread // LANES, SIDE_BY_SIDE)):
        item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
        position = T.Bind(mem.q[first + item])
        source = T.Bind(stream_of(position) * mem.floats + mem.c[row + K.IN])
        row_taps = T.Bind(line_of(position) * taps_h)
        column_taps = T.Bind(column_of(position) * taps_w)
        for block in range(share(mem.c[row + K.CHANNELS], thread % LANES, LANES)):
            channel = T.Bind(block * LANES + thread % LANES)
            total = T.alloc_buffer((1,), "float32", scope="local")
            total[0] = T.float32(0)
            for j in range(taps_h):
                y = T.Bind(mem.c[mem.c[row + K.TABLE_H] + row_taps + j])
                for k in range(taps_w):
                    x = T.Bind(mem.c[mem.c[row + K.TABLE_W] + column_taps + k])
                    at = T.Bind(source + y * mem.c[row + K.IN_ROW] + x * mem.c[row + K.IN_PIXEL] + channel)
                    weight = T.Bind(
                        mem.w[mem.c[row + K.WEIGHT] + row_taps + j] * mem.w[mem.c[row + K.BIAS] + column_taps + k]
                    )
                    total[0] = total[0] + weight * mem.a[at]
            mem.a[scratch + item * mem.c[row + K.SCRATCH_PITCH] + channel] = total[0]


@T.inline
def move(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """The values that the tables name, or the fill where row or column lie outside."""
    for i in range(share(count, thread // LANES, SIDE_BY_SIDE)):
        item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
        position = T.Bind(mem.q[first + item])
        source = T.Bind(stream_of(position) * mem.floats + mem.c[row + K.IN])
        above = T.Bind(mem.c[mem.c[row + K.TABLE_H] + line_of(position)])
        left = T.Bind(mem.c[mem.c[row + K.TABLE_W] + column_of(position)])
        for block in range(share(mem.c[row + K.CHANNELS], thread % LANES, LANES)):
            channel = T.Bind(block * LANES + thread % LANES)
            value = T.alloc_buffer((1,), "float32", scope="local")
            value[0] = mem.w[mem.c[row + K.WEIGHT]]
            if T.And(above != OUTSIDE, left != OUTSIDE):
                value[0] = mem.a[source + above + left + mem.c[mem.c[row + K.TABLE_C] + channel]]
            mem.a[scratch + item * mem.c[row + K.SCRATCH_PITCH] + channel] = value[0]
