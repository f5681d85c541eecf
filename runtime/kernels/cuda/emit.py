"""Feature maps out, on a GPU: see `skipfx.runtime.kernels.emit`, whose dirty maps these kernels keep."""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import cell, common, line_at
from skipfx.runtime.kernels.cuda.thread import share, sync
from skipfx.runtime.kernels.table import THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


@T.inline
def emit_row(mem: Any, thread: Any, row: Any, stream: Any, y: Any, idle: Any) -> None:
    """Notes what changed of a row, and writes what the output array lacks."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    channels = T.Bind(mem.c[row + K.CHANNELS])
    slot = T.Bind(T.Cast("uint8", common(mem, Cell.SLOT)))
    full = T.Bind(common(mem, Cell.FULL))
    maps = T.Bind(stream * mem.bytes)
    line = T.Bind(maps + mem.c[row + K.DIRTY] + y * width)
    pixels = T.Bind(stream * mem.floats + mem.c[row + K.IN] + y * mem.c[row + K.IN_ROW])
    given = T.Bind(mem.c[row + K.ARRAY] * mem.streams + stream * channels * height * width)
    for i in range(share(width, thread, THREADS)):
        x = T.Bind(thread + i * THREADS)
        lacks = T.alloc_buffer((1,), "uint8", scope="local")
        lacks[0] = mem.m[line + x]
        if idle == 0:
            for j in range(mem.c[row + K.SOURCE_COUNT]):
                source = T.Bind(mem.c[row + K.SOURCES] + j * S.NUMBERS)
                if mem.m[maps + mem.c[source + S.MAP] + y * mem.c[source + S.MAP_ROW] + x] > 0:
                    lacks[0] = T.uint8(255)
        mem.m[line + x] = lacks[0] & ~slot
        if T.Or(full > 0, (lacks[0] & slot) > 0):
            for channel in range(channels):
                mem.o[given + (channel * height + y) * width + x] = mem.a[
                    pixels + x * mem.c[row + K.IN_PIXEL] + channel
                ]


@T.inline
def emit(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Brings the call's output array up to date; it may lack what a stream without a frame changed in its last step."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    slot = T.Bind(T.Cast("uint8", common(mem, Cell.SLOT)))
    for i in range(share(mem.streams * height, block, blocks)):
        stream = T.Bind(T.truncdiv(block + i * blocks, height))
        y = T.Bind(line_at(block + i * blocks, height))
        idle = T.Bind(mem.n[cell(mem, T.int64(Cell.IDLE), stream)])
        maps = T.Bind(stream * mem.bytes)
        flag = T.Bind(maps + mem.c[row + K.DIRTY] + height * mem.c[row + K.WIDTH] + y)
        lacks = T.alloc_buffer((1,), "uint8", scope="local")
        lacks[0] = mem.m[flag]
        if idle == 0:
            for j in range(mem.c[row + K.SOURCE_COUNT]):
                source = T.Bind(mem.c[row + K.SOURCES] + j * S.NUMBERS)
                if mem.m[maps + mem.c[source + S.FLAGS] + y] > 0:
                    lacks[0] = T.uint8(255)
        if T.Or(common(mem, Cell.FULL) > 0, (lacks[0] & slot) > 0):
            emit_row(mem, thread, row, stream, y, idle)
            lacks[0] = lacks[0] & ~slot
        sync()
        if thread == 0:
            mem.m[flag] = lacks[0]
