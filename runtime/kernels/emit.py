"""Feature maps out: the positions that an output array lacks, as they lie in the map, or to [C, H, W] for islands.

The host keeps more than one output array, so that a caller may keep the last result while the next is made. Each has a
bit in a dirty map: a change sets all bits, writing to one array clears that array's bit.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.active import compact
from skipfx.runtime.kernels.lanes import copy
from skipfx.runtime.kernels.table import LANES, LINES, Cell, Column, SourceColumn

K = Column
S = SourceColumn


@T.inline
def lacking(mem: Any, row: Any, y: Any, full: Any, slot: Any, wanted: Any, columns: Any, found: Any) -> None:
    """Lists the columns of a row that the output array lacks."""
    width = T.Bind(mem.c[row + K.WIDTH])
    line = T.Bind(mem.c[row + K.DIRTY] + y * width)
    for x in range(width):
        mem.s[wanted + x] = T.Select(full + T.Cast("int64", mem.m[line + x] & slot) > 0, T.uint8(1), T.uint8(0))
    compact(mem, mem.s, wanted, width, T.int64(0), columns, found)


@T.inline
def whole_row(mem: Any, row: Any, y: Any) -> None:
    """All positions of a row to an array of planes, in squares of LANES channels x LANES positions."""
    width = T.Bind(mem.c[row + K.WIDTH])
    channels = T.Bind(mem.c[row + K.CHANNELS])
    pixels = T.Bind(mem.c[row + K.IN] + y * mem.c[row + K.IN_ROW])
    pixel = T.Bind(mem.c[row + K.IN_PIXEL])
    plane = T.Bind(mem.c[row + K.HEIGHT] * width)
    out = T.Bind(mem.c[row + K.ARRAY] + y * width)
    for square in range(width // LANES):
        x = T.Bind(square * LANES)
        for channel in range(channels):
            for v in T.vectorized(LANES):
                mem.o[out + channel * plane + x + v] = mem.a[pixels + (x + v) * pixel + channel]
    tail = T.Bind(width // LANES * LANES)
    for channel in range(channels):
        for k in range(width - tail):
            mem.o[out + channel * plane + tail + k] = mem.a[pixels + (tail + k) * pixel + channel]


@T.inline
def planes(mem: Any, row: Any, y: Any, columns: Any, count: Any) -> None:
    """Some positions of a row, to an array of planes."""
    width = T.Bind(mem.c[row + K.WIDTH])
    channels = T.Bind(mem.c[row + K.CHANNELS])
    pixels = T.Bind(mem.c[row + K.IN] + y * mem.c[row + K.IN_ROW])
    pixel = T.Bind(mem.c[row + K.IN_PIXEL])
    plane = T.Bind(mem.c[row + K.HEIGHT] * width)
    out = T.Bind(mem.c[row + K.ARRAY] + y * width)
    for block in range(channels // LANES):
        for k in range(count):
            x = T.Bind(mem.q[columns + k])
            for v in T.unroll(LANES):
                mem.o[out + (block * LANES + v) * plane + x] = mem.a[pixels + x * pixel + block * LANES + v]
    tail = T.Bind(channels // LANES * LANES)
    for rest in range(channels - tail):
        for k in range(count):
            x = T.Bind(mem.q[columns + k])
            mem.o[out + (tail + rest) * plane + x] = mem.a[pixels + x * pixel + tail + rest]


@T.inline
def positions(mem: Any, row: Any, y: Any, columns: Any, count: Any) -> None:
    """Some positions of a row, to an array that lies as the map does."""
    channels = T.Bind(mem.c[row + K.CHANNELS])
    pixels = T.Bind(mem.c[row + K.IN] + y * mem.c[row + K.IN_ROW])
    pixel = T.Bind(mem.c[row + K.IN_PIXEL])
    out = T.Bind(mem.c[row + K.ARRAY] + y * mem.c[row + K.WIDTH] * channels)
    for k in range(count):
        x = T.Bind(mem.q[columns + k])
        copy(mem.o, out + x * channels, mem.a, pixels + x * pixel, channels, T.int64(0))


@T.inline
def emit(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Brings the call's output array up to date, one row after another."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    dirty = T.Bind(mem.c[row + K.DIRTY])
    slot = T.Bind(T.Cast("uint8", mem.n[T.int64(Cell.SLOT)]))
    fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])  # then nothing is marked, because all has changed
    full = T.Bind(mem.n[T.int64(Cell.FULL)] + fresh)
    columns = T.Bind(mem.c[row + K.SPOTS] + task * mem.c[row + K.SPOTS_SIZE])
    wanted = T.Bind(task * LINES * mem.c[row + K.LINE])
    low = T.Bind(height * task // tasks)
    for i in range(height * (task + 1) // tasks - low):
        found = T.alloc_buffer((1,), "int64")
        y = T.Bind(low + i)
        flag = T.Bind(dirty + height * width + y)
        line = T.Bind(dirty + y * width)
        if fresh > 0:
            mem.m[flag] = T.uint8(255)
            for x in range(width):
                mem.m[line + x] = T.uint8(255)
        for j in range(mem.c[row + K.SOURCE_COUNT]):
            source = T.Bind(mem.c[row + K.SOURCES] + j * S.NUMBERS)
            if mem.m[mem.c[source + S.FLAGS] + y] > 0:
                mem.m[flag] = T.uint8(255)
                changes = T.Bind(mem.c[source + S.MAP] + y * mem.c[source + S.MAP_ROW])
                for x in range(width):
                    mem.m[line + x] = mem.m[line + x] | T.Select(mem.m[changes + x] > 0, T.uint8(255), T.uint8(0))
        if T.Or(full > 0, (mem.m[flag] & slot) > 0):
            found[0] = T.int64(0)
            lacking(mem, row, y, full, slot, wanted, columns, found)
            if mem.c[row + K.OUT_PIXEL] > 1:
                positions(mem, row, y, columns, found[0])
            elif found[0] == width:
                whole_row(mem, row, y)
            else:
                planes(mem, row, y, columns, found[0])
            for x in range(width):
                mem.m[line + x] = mem.m[line + x] & ~slot
            mem.m[flag] = mem.m[flag] & ~slot
