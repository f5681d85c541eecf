"""Active lists: the output positions whose window holds a change, as packed positions in row order.

A task lists its own band of rows into its own part of the list, so no task waits for another. Rows without a flag cost
one look; a flagged row costs a few passes over its bytes, block by block.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LINES, SHIFT, TILE, Cell, Column, SourceColumn

K = Column
BLOCK = 32  # marks that are copied at once; behind those of a row stand others, or flags, which nobody uses
GROUP = 8  # marks that are looked at at once
S = SourceColumn


def own_part(mem: Any, task: Any, tasks: Any, row: Any) -> Any:
    """Where the task's part of a list starts: that of its band of rows."""
    return mem.c[row + K.LIST] + mem.c[row + K.HEIGHT] * task // tasks * mem.c[row + K.WIDTH] + task * TILE


@T.inline
def put(mem: Any, to: Any, source: Any, at: Any, count: Any) -> None:
    """Copies `count` marks to a scratch line, in whole blocks."""
    for block in range((count + BLOCK - 1) // BLOCK):
        for v in T.vectorized(BLOCK):
            mem.s[to + block * BLOCK + v] = source[at + block * BLOCK + v]


@T.inline
def add(mem: Any, to: Any, source: Any, at: Any, count: Any) -> None:
    """As `put`, but adds them to those that are there."""
    for block in range((count + BLOCK - 1) // BLOCK):
        for v in T.vectorized(BLOCK):
            mem.s[to + block * BLOCK + v] = mem.s[to + block * BLOCK + v] | source[at + block * BLOCK + v]


@T.inline
def append(mem: Any, start: Any, end: Any, position: Any, mark: Any) -> None:
    """Appends a position to the list at `start` if its mark is 1: written in any case, counted if so."""
    mem.q[start + end[0]] = position
    end[0] = end[0] + T.Cast("int64", mark)


@T.inline
def compact(mem: Any, marks: Any, first: Any, width: Any, tag: Any, start: Any, found: Any) -> None:
    """Appends tag | x to the list at `start` for every x < width whose mark is 1, without a branch for each."""
    end = T.alloc_buffer((1,), "int64")
    end[0] = found[0]
    for group in range(width // GROUP):
        low = T.Bind(group * GROUP)
        some = T.alloc_buffer((1,), "uint8")
        some[0] = T.uint8(0)
        for x in T.unroll(GROUP):
            some[0] = some[0] | marks[first + low + x]
        if some[0] > 0:
            for x in T.unroll(GROUP):
                append(mem, start, end, tag | (low + x), marks[first + low + x])
    for x in range(width % GROUP):
        last = T.Bind(width - width % GROUP + x)
        append(mem, start, end, tag | last, marks[first + last])
    found[0] = end[0]


@T.inline
def list_row(mem: Any, task: Any, row: Any, y: Any, start: Any, width: Any, found: Any) -> None:
    """Appends the active positions of one row."""
    line = T.Bind(task * LINES * mem.c[row + K.LINE])
    marks = T.Bind(line + mem.c[row + K.LINE])
    wide = T.Bind(marks + mem.c[row + K.LINE])
    hit = T.alloc_buffer((1,), "int64")
    hit[0] = T.int64(0)
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        touched = T.alloc_buffer((1,), "int64")
        touched[0] = T.int64(0)
        left = T.Bind(mem.c[source + S.PAD_W])
        kernel_w = T.Bind(mem.c[source + S.KERNEL_W])
        stride_w = T.Bind(mem.c[source + S.STRIDE_W])
        step_w = T.Bind(mem.c[source + S.DILATION_W])
        taps = T.Bind(mem.c[source + S.KIND])
        span = T.Bind(
            T.Select(taps == 1, mem.c[source + S.WIDTH], (width - 1) * stride_w + (kernel_w - 1) * step_w + 1)
        )
        for k in range(mem.c[source + S.KERNEL_H]):
            above = T.alloc_buffer((1,), "int64")
            if taps == 1:
                above[0] = mem.c[mem.c[source + S.TABLE_H] + y * mem.c[source + S.KERNEL_H] + k]
            else:
                above[0] = y * mem.c[source + S.STRIDE_H] - mem.c[source + S.PAD_H] + k * mem.c[source + S.DILATION_H]
            if T.And(above[0] >= 0, above[0] < mem.c[source + S.HEIGHT]):
                if mem.m[mem.c[source + S.FLAGS] + above[0]] > 0:
                    changes = T.Bind(mem.c[source + S.MAP] + above[0] * mem.c[source + S.MAP_ROW] - left)
                    if touched[0] == 0:
                        put(mem, line, mem.m, changes, span)
                    else:
                        add(mem, line, mem.m, changes, span)
                    touched[0] = T.int64(1)
        if touched[0] > 0:
            if hit[0] == 0:
                for x in range(width):
                    mem.s[marks + x] = T.uint8(0)
                hit[0] = T.int64(1)
            if taps == 1:
                for k in range(kernel_w):
                    for x in range(width):
                        at = T.meta_var(mem.c[mem.c[source + S.TABLE_W] + x * kernel_w + k])
                        mem.s[marks + x] = mem.s[marks + x] | mem.s[line + at]
            elif stride_w == 1:
                for k in range(kernel_w):
                    add(mem, marks, mem.s, line + k * step_w, width)
            else:  # first every position, which vectorises, then those of the stride
                every = T.Bind((width - 1) * stride_w + 1)
                put(mem, wide, mem.s, line, every)
                for k in range(kernel_w - 1):
                    add(mem, wide, mem.s, line + (k + 1) * step_w, every)
                for x in range(width):
                    mem.s[marks + x] = mem.s[marks + x] | mem.s[wide + x * stride_w]
    if hit[0] > 0:
        compact(mem, mem.s, marks, width, y << SHIFT, start, found)


@T.inline
def close(mem: Any, task: Any, row: Any, start: Any, found: Any) -> None:
    """Ends the task's part of the list: how long it is, and whole tiles of its last position behind it."""
    if found[0] > 0:
        for p in range(T.int64(TILE)):
            mem.q[start + found[0] + p] = mem.q[start + found[0] - 1]
    mem.n[mem.c[row + K.LIST_COUNT] + task] = found[0]


@T.inline
def active(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Fills the task's part of the list, padded to whole tiles with its last position."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    low = T.Bind(height * task // tasks)
    high = T.Bind(height * (task + 1) // tasks)
    start = T.Bind(own_part(mem, task, tasks, row))
    found = T.alloc_buffer((1,), "int64")
    state = T.alloc_buffer((2,), "int64")  # anything changed; everything is active
    found[0] = T.int64(0)
    state[0] = T.int64(0)
    state[1] = mem.n[T.int64(Cell.REFRESH)]
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        for t in range(tasks):
            if mem.n[mem.c[source + S.COUNT] + t] > 0:
                state[0] = T.int64(1)
                if mem.c[source + S.KIND] == 2:
                    state[1] = T.int64(1)
    if state[1] > 0:
        for i in range(high - low):
            for x in range(width):
                mem.q[start + i * width + x] = ((low + i) << SHIFT) | x
        found[0] = (high - low) * width
    elif state[0] > 0:
        for i in range(high - low):
            list_row(mem, task, row, low + i, start, width, found)
    close(mem, task, row, start, found)
