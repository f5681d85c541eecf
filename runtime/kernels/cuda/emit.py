"""Feature maps out, on a GPU: see `skipfx.runtime.kernels.emit`, whose dirty maps these kernels keep."""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.thread import share, sync
from skipfx.runtime.kernels.table import THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


@T.inline
def emit_row(mem: Any, thread: Any, row: Any, y: Any) -> None:
    """Notes what changed of a row, and writes what the output array lacks."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    slot = T.Bind(T.Cast("uint8", mem.n[T.int64(Cell.SLOT)]))
    full = T.Bind(mem.n[T.int64(Cell.FULL)])
    line = T.Bind(mem.c[row + K.DIRTY] + y * width)
    pixels = T.Bind(mem.c[row + K.IN] + y * mem.c[row + K.IN_ROW])
    for i in range(share(width, thread, THREADS)):
        x = T.Bind(thread + i * THREADS)
        lacks = T.alloc_buffer((1,), "uint8", scope="local")
        lacks[0] = mem.m[line + x]
        for j in range(mem.c[row + K.SOURCE_COUNT]):
            source = T.Bind(mem.c[row + K.SOURCES] + j * S.NUMBERS)
            if mem.m[mem.c[source + S.MAP] + y * mem.c[source + S.MAP_ROW] + x] > 0:
                lacks[0] = T.uint8(255)
        mem.m[line + x] = lacks[0] & ~slot
        if T.Or(full > 0, (lacks[0] & slot) > 0):
            for channel in range(mem.c[row + K.CHANNELS]):
                mem.o[mem.c[row + K.ARRAY] + (channel * height + y) * width + x] = mem.a[
                    pixels + x * mem.c[row + K.IN_PIXEL] + channel
                ]


@T.inline
def emit(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Brings the call's output array up to date."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    slot = T.Bind(T.Cast("uint8", mem.n[T.int64(Cell.SLOT)]))
    for i in range(share(height, block, blocks)):
        y = T.Bind(block + i * blocks)
        flag = T.Bind(mem.c[row + K.DIRTY] + height * mem.c[row + K.WIDTH] + y)
        lacks = T.alloc_buffer((1,), "uint8", scope="local")
        lacks[0] = mem.m[flag]
        for j in range(mem.c[row + K.SOURCE_COUNT]):
            source = T.Bind(mem.c[row + K.SOURCES] + j * S.NUMBERS)
            if mem.m[mem.c[source + S.FLAGS] + y] > 0:
                lacks[0] = T.uint8(255)
        if T.Or(mem.n[T.int64(Cell.FULL)] > 0, (lacks[0] & slot) > 0):
            emit_row(mem, thread, row, y)
            lacks[0] = lacks[0] & ~slot
        sync()
        if thread == 0:
            mem.m[flag] = lacks[0]
