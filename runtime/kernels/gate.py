"""The gates that choose output positions: scores of a residual, the blocks that open, and lists within a mask."""

from operator import add
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.active import STRETCH, close
from skipfx.runtime.kernels.conv import offset
from skipfx.runtime.kernels.lanes import fold
from skipfx.runtime.kernels.memory import address
from skipfx.runtime.kernels.table import FLT_MAX, LANES, MASK, SHIFT, TILE, Cell, Column, SourceColumn

K = Column
S = SourceColumn
POSITIONS = 6  # of a tile of scores


@T.inline
def score(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Sum over window and channels of a |x - reference|, one number for a position.

    Weights are packed [kh, kw, run]. Lanes hold channels and are folded as a tree.
    """
    scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    run = T.Bind(mem.c[row + K.RUN])
    blocks = T.Bind((run + (LANES - 1)) // LANES)
    row_step = T.Bind(mem.c[row + K.REFERENCE_ROW] * mem.c[row + K.DILATION_H])
    pixel_step = T.Bind(mem.c[row + K.REFERENCE_PIXEL] * mem.c[row + K.DILATION_W])
    for tile in range((count + (POSITIONS - 1)) // POSITIONS):
        here = T.alloc_buffer((POSITIONS,), "int64")
        there = T.alloc_buffer((POSITIONS,), "int64")
        sums = T.alloc_buffer((POSITIONS, LANES), "float32")
        for p in T.unroll(POSITIONS):
            position = T.Bind(mem.q[first + tile * POSITIONS + p])
            here[p] = mem.c[row + K.IN] + offset(mem, row, position)
            there[p] = (
                mem.c[row + K.REFERENCE]
                + (position >> SHIFT) * mem.c[row + K.STRIDE_H] * mem.c[row + K.REFERENCE_ROW]
                + (position & MASK) * mem.c[row + K.STRIDE_W] * mem.c[row + K.REFERENCE_PIXEL]
            )
            for v in T.vectorized(LANES):
                sums[p, v] = T.float32(0)
        for kh in range(mem.c[row + K.KERNEL_H]):
            for kw in range(kernel_w):
                x = T.Bind(kh * mem.c[row + K.STEP_H] + kw * mem.c[row + K.STEP_W])
                h = T.Bind(kh * row_step + kw * pixel_step)
                weight = T.Bind(mem.c[row + K.WEIGHT] + (kh * kernel_w + kw) * blocks * LANES)
                for block in range(run // LANES):
                    at = T.Bind(block * LANES)
                    for p in T.unroll(POSITIONS):
                        for v in T.vectorized(LANES):
                            size = T.meta_var(T.abs(mem.a[here[p] + x + at + v] - mem.a[there[p] + h + at + v]))
                            sums[p, v] = sums[p, v] + size * mem.w[weight + at + v]
                if run % LANES > 0:  # what stands behind the channels does not count
                    at = T.Bind(run // LANES * LANES)
                    for p in T.unroll(POSITIONS):
                        for v in T.vectorized(LANES):
                            size = T.meta_var(T.abs(mem.a[here[p] + x + at + v] - mem.a[there[p] + h + at + v]))
                            term = T.meta_var(T.Select(at + v < run, size * mem.w[weight + at + v], T.float32(0)))
                            sums[p, v] = sums[p, v] + term
        for p in T.unroll(POSITIONS):
            total = T.alloc_buffer((LANES,), "float32")
            for v in T.vectorized(LANES):
                total[v] = sums[p, v]
            fold(total, add)
            mem.a[scratch + (tile * POSITIONS + p) * pitch] = total[0]


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
    low = T.Bind(mem.c[row + K.HEIGHT] * task // tasks)
    start = T.Bind(mem.c[row + K.LIST] + low * mem.c[row + K.WIDTH] + task * TILE)
    found = T.alloc_buffer((1,), "int64")
    found[0] = T.int64(0)
    for i in range(mem.n[mem.c[row + K.LIST_COUNT] + task]):
        position = T.Bind(mem.q[start + i])
        at = T.Bind(address(mem, row + K.OPERANDS, position >> SHIFT, position & MASK))
        inside = T.Bind(T.Select(mem.a[at] > T.float32(0), T.int64(1), T.int64(0)))
        mem.q[start + found[0]] = position
        found[0] = found[0] + T.Select(inside == mem.c[row + K.INSIDE], T.int64(1), T.int64(0))
    close(mem, task, row, start, found)
