"""The gates that choose output positions: scores of a residual, the blocks that open, and lists within a mask."""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.active import close, own_part
from skipfx.runtime.kernels.lanes import copy
from skipfx.runtime.kernels.memory import address, mark, offset
from skipfx.runtime.kernels.table import FLT_MAX, MASK, SHIFT, Cell, Column, SourceColumn

K = Column
S = SourceColumn
STRETCH = 64  # positions of a row that are looked at at once: whole blocks


@T.inline
def score(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Adds up what was weighed for the taps of a window, at the task's part of the list."""
    start = T.Bind(own_part(mem, task, tasks, row))
    number = T.Bind(mem.n[mem.c[row + K.LIST_COUNT] + task])
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    sign = T.Bind(mem.w[mem.c[row + K.WEIGHT]])
    for i in range(number):
        position = T.Bind(mem.q[start + i])
        y = T.Bind(position >> SHIFT)
        x = T.Bind(position & MASK)
        window = T.Bind(mem.c[row + K.IN] + offset(mem, row, position))
        total = T.alloc_buffer((1,), "float32")
        total[0] = T.float32(0)
        for kh in range(mem.c[row + K.KERNEL_H]):
            for kw in range(kernel_w):
                tap = T.meta_var(kh * kernel_w + kw)
                total[0] = total[0] + mem.a[window + kh * mem.c[row + K.STEP_H] + kw * mem.c[row + K.STEP_W] + tap]
        mem.a[address(mem, row + K.OUT, y, x)] = mem.a[address(mem, row + K.OPERANDS, y, x)] + sign * total[0]
        mark(mem, row, y, x)
    mem.n[mem.c[row + K.COUNT] + task] = number


@T.inline
def follow(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Moves a reference, and marks where a score notices."""
    start = T.Bind(own_part(mem, task, tasks, row))
    moved = T.alloc_buffer((1,), "int64")
    moved[0] = T.int64(0)
    for i in range(mem.n[mem.c[row + K.LIST_COUNT] + task]):
        position = T.Bind(mem.q[start + i])
        y = T.Bind(position >> SHIFT)
        x = T.Bind(position & MASK)
        new = T.Bind(address(mem, row + K.IN, y, x))
        out = T.Bind(address(mem, row + K.OUT, y, x))
        copy(mem.a, out, mem.a, new, mem.c[row + K.CHANNELS], mem.c[row + K.SPARE])
        weighed = T.Bind(address(mem, row + K.REFERENCE, y, x))
        noticed = T.alloc_buffer((1,), "int64")
        noticed[0] = mem.n[T.int64(Cell.REFRESH)]
        for tap in range(mem.c[row + K.RUN]):
            noticed[0] = noticed[0] | T.Select(mem.a[weighed + tap] == T.float32(0), T.int64(0), T.int64(1))
            mem.a[weighed + tap] = T.float32(0)
        if noticed[0] > 0:
            mark(mem, row, y, x)
            moved[0] = moved[0] + 1
    mem.n[mem.c[row + K.COUNT] + task] = moved[0]


@T.inline
def open_block(mem: Any, row: Any, top: Any, left: Any, rows: Any, columns: Any, scores: Any) -> None:
    """Marks one block and zeroes its scores."""
    for j in range(rows):
        for x in range(columns):
            mem.m[mem.c[row + K.MAP] + (top + j) * mem.c[row + K.MAP_ROW] + left + x] = T.uint8(1)
            mem.a[scores + j * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL]] = T.float32(0)
        mem.m[mem.c[row + K.FLAGS] + top + j] = T.uint8(1)


@T.inline
def look(mem: Any, row: Any, top: Any, left: Any, rows: Any, columns: Any, marks: Any, opened: Any) -> None:
    """Opens one block if a score of it is new and any exceeds the limit; `marks` says which are new."""
    pitch = T.Bind(mem.c[row + K.MAP_ROW])
    fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])
    seen = T.alloc_buffer((1,), "uint8")
    seen[0] = T.Cast("uint8", fresh)
    for j in range(rows):
        for x in range(columns):
            seen[0] = seen[0] | mem.m[marks + j * pitch + x]
    if seen[0] > 0:
        scores = T.Bind(address(mem, row + K.OUT, top, left))
        largest = T.alloc_buffer((1,), "float32")
        largest[0] = T.float32(-FLT_MAX)
        for j in range(rows):
            for x in range(columns):
                found = T.Bind(mem.a[scores + j * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL]])
                largest[0] = T.max(largest[0], found)
        if T.Or(fresh > 0, largest[0] > mem.w[mem.c[row + K.THRESHOLD]]):
            open_block(mem, row, top, left, rows, columns, scores)
            opened[0] = opened[0] + rows * columns


@T.inline
def open_blocks(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Marks the blocks with a computed score in which any score exceeds the limit, and zeroes their scores.

    A task has rows of blocks of its own. A refresh opens everything. Stretches without a new score cost one look.
    """
    block = T.Bind(mem.c[row + K.BLOCK])
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    pitch = T.Bind(mem.c[row + K.MAP_ROW])
    fresh = T.Bind(T.Cast("uint8", mem.n[T.int64(Cell.REFRESH)]))
    flags = T.Bind(mem.c[mem.c[row + K.SOURCES] + S.FLAGS])
    computed = T.Bind(mem.c[mem.c[row + K.SOURCES] + S.MAP])
    bands = T.Bind((height + block - 1) // block)
    low = T.Bind(bands * task // tasks)
    opened = T.alloc_buffer((1,), "int64")
    opened[0] = T.int64(0)
    for i in range(bands * (task + 1) // tasks - low):
        top = T.Bind((low + i) * block)
        rows = T.Bind(T.min(block, height - top))
        some = T.alloc_buffer((1,), "uint8")
        some[0] = fresh
        for j in range(rows):
            some[0] = some[0] | mem.m[flags + top + j]
        for stretch in range(T.Select(some[0] > 0, (width + (STRETCH - 1)) // STRETCH, T.int64(0))):
            left = T.Bind(stretch * STRETCH)
            length = T.Bind(T.min(width - left, T.int64(STRETCH)))
            marks = T.Bind(computed + top * pitch + left)
            some[0] = fresh
            for j in range(rows):
                for x in range(length):
                    some[0] = some[0] | mem.m[marks + j * pitch + x]
            for k in range(T.Select(some[0] > 0, (length + block - 1) // block, T.int64(0))):
                columns = T.Bind(T.min(block, length - k * block))
                look(mem, row, top, left + k * block, rows, columns, marks + k * block, opened)
    mem.n[mem.c[row + K.COUNT] + task] = opened[0]


@T.inline
def keep(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Drops the positions of the task's part of a list that lie on the wrong side of a mask."""
    start = T.Bind(own_part(mem, task, tasks, row))
    found = T.alloc_buffer((1,), "int64")
    found[0] = T.int64(0)
    for i in range(mem.n[mem.c[row + K.LIST_COUNT] + task]):
        position = T.Bind(mem.q[start + i])
        at = T.Bind(address(mem, row + K.OPERANDS, position >> SHIFT, position & MASK))
        inside = T.Bind(T.Select(mem.a[at] > T.float32(0), T.int64(1), T.int64(0)))
        mem.q[start + found[0]] = position
        found[0] = found[0] + T.Select(inside == mem.c[row + K.INSIDE], T.int64(1), T.int64(0))
    close(mem, task, row, start, found)
