"""Active lists on a GPU: the output positions whose window holds a change, of all streams, compacted.

A block looks at THREADS positions of a row at a time, counts its hits by a running sum and takes room for them in the
list by one atomic addition. So positions stand in row order within a row's run; the order of the runs is left to
chance, and no value depends on it, because every position is computed by itself.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import cell, line_at, lines, listed, packed, place, stream_at
from skipfx.runtime.kernels.cuda.thread import Body, atomic_add, running_sum, share, sync
from skipfx.runtime.kernels.table import THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


def above(mem: Any, source: Any, y: Any, k: Any) -> Any:
    """Row of a source's map that output row y reads at kernel row k."""
    strided = y * mem.c[source + S.STRIDE_H] - mem.c[source + S.PAD_H] + k * mem.c[source + S.DILATION_H]
    listed = mem.c[mem.c[source + S.TABLE_H] + y * mem.c[source + S.KERNEL_H] + k]
    return T.if_then_else(mem.c[source + S.KIND] == 1, listed, strided)


def beside(mem: Any, source: Any, x: Any, k: Any) -> Any:
    """Column of a source's map that output column x reads at kernel column k."""
    strided = x * mem.c[source + S.STRIDE_W] - mem.c[source + S.PAD_W] + k * mem.c[source + S.DILATION_W]
    listed = mem.c[mem.c[source + S.TABLE_W] + x * mem.c[source + S.KERNEL_W] + k]
    return T.if_then_else(mem.c[source + S.KIND] == 1, listed, strided)


@T.inline
def find(mem: Any, row: Any, stream: Any, y: Any, x: Any, hit: Any) -> None:
    """Sets `hit` where the window of a position holds a change."""
    maps = T.Bind(stream * mem.bytes)
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        for k in range(mem.c[source + S.KERNEL_H]):
            line = T.Bind(above(mem, source, y, k))
            if T.And(line >= 0, line < mem.c[source + S.HEIGHT]):
                if mem.m[maps + mem.c[source + S.FLAGS] + line] > 0:
                    changes = T.Bind(maps + mem.c[source + S.MAP] + line * mem.c[source + S.MAP_ROW])
                    for j in range(mem.c[source + S.KERNEL_W]):
                        column = T.Bind(beside(mem, source, x, j))
                        if T.And(column >= 0, column < mem.c[source + S.WIDTH]):
                            hit[0] = hit[0] | T.Cast("int64", mem.m[changes + column])


@T.inline
def touch(mem: Any, row: Any, stream: Any, y: Any, all: Any, touched: Any) -> None:
    """Sets `touched` where any row that an output row reads holds a change, `all` where every position is active."""
    all[0] = mem.n[cell(mem, T.int64(Cell.REFRESH), stream)]
    touched[0] = all[0]
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        if mem.n[cell(mem, mem.c[source + S.COUNT], stream)] > 0:
            if mem.c[source + S.KIND] == 2:
                all[0] = T.int64(1)
                touched[0] = T.int64(1)
            for k in range(mem.c[source + S.KERNEL_H]):
                line = T.Bind(above(mem, source, y, k))
                if T.And(line >= 0, line < mem.c[source + S.HEIGHT]):
                    flag = T.meta_var(mem.m[stream * mem.bytes + mem.c[source + S.FLAGS] + line])
                    touched[0] = touched[0] | T.Cast("int64", flag)


@T.inline
def list_row(mem: Any, thread: Any, row: Any, stream: Any, y: Any, all: Any, sums: Any, base: Any, kept: Any) -> None:
    """Appends the active positions of a row; `kept` says which of them."""
    width = T.Bind(mem.c[row + K.WIDTH])
    for j in range((width + (THREADS - 1)) // THREADS):
        x = T.Bind(thread + j * THREADS)
        hit = T.alloc_buffer((1,), "int64", scope="local")
        hit[0] = T.int64(0)
        if x < width:
            hit[0] = all[0]
            if all[0] == 0:
                find(mem, row, stream, y, x, hit)
            hit[0] = hit[0] & kept(mem, row, packed(stream, y, x))
        sums[thread] = hit[0]
        running_sum(sums, thread)
        if thread == 0:
            base[0] = atomic_add(mem.n, listed(mem, row), sums[THREADS - 1])
        if thread == 1:
            T.evaluate(atomic_add(mem.n, cell(mem, mem.c[row + K.LIST_COUNT], stream), sums[THREADS - 1]))
        sync()
        if hit[0] > 0:
            mem.q[mem.c[row + K.LIST] * mem.streams + base[0] + sums[thread] - 1] = packed(stream, y, x)
        sync()


def within_mask(mem: Any, row: Any, position: Any) -> Any:
    """1 on the side of the mask that a row asks for."""
    side = T.Select(mem.a[place(mem, row + K.OPERANDS, position)] > T.float32(0), T.int64(1), T.int64(0))
    return T.Select(side == mem.c[row + K.INSIDE], T.int64(1), T.int64(0))


def lister(kept: Callable[[Any, Any, Any], Any]) -> Body:
    """The kernel that lists the active positions for which `kept(memory, row, position)` is 1."""

    @T.inline
    def active(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        """Fills the list, and counts what is of which stream; the counts start at zero."""
        height = T.Bind(mem.c[row + K.HEIGHT])
        sums = T.alloc_buffer((THREADS,), "int64", scope="shared")
        base = T.alloc_buffer((1,), "int64", scope="shared")
        for i in range(share(lines(mem, height), block, blocks)):
            item = T.Bind(block + i * blocks)
            stream = T.Bind(stream_at(mem, item, height))
            y = T.Bind(line_at(item, height))
            all = T.alloc_buffer((1,), "int64", scope="local")
            touched = T.alloc_buffer((1,), "int64", scope="local")
            touch(mem, row, stream, y, all, touched)
            if touched[0] > 0:
                list_row(mem, thread, row, stream, y, all, sums, base, kept)

    return active


active = lister(lambda mem, row, position: T.int64(1))
keep = lister(within_mask)
