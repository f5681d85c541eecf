"""Gates that choose output positions, on a GPU: see `skipfx.runtime.kernels.weigh` and `gate`, whose order these keep.

What changed is weighed by LANES threads for a position, as in the epilogue; a score takes one thread, and so does a
block that may open.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.epilogue import ROUNDS
from skipfx.runtime.kernels.cuda.streams import cell, line_at, lines, mark, offset, packed, place, stream_at, stream_of
from skipfx.runtime.kernels.cuda.thread import fold, share, sync
from skipfx.runtime.kernels.reduce import add
from skipfx.runtime.kernels.table import FLT_MAX, LANES, SIDE_BY_SIDE, TAPS, THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


def fresh(mem: Any, position: Any) -> Any:
    """Whether the stream of a position has a refresh."""
    return mem.n[cell(mem, T.int64(Cell.REFRESH), stream_of(position))]


@T.inline
def weigh_taps(mem: Any, thread: Any, row: Any, position: Any, weight: Any, sums: Any) -> None:
    """The lane's share of the numbers of TAPS taps: weights are packed [channels / LANES, TAPS, LANES]."""
    lane = T.Bind(thread % LANES)
    here = T.Bind(place(mem, row + K.IN, position))
    there = T.Bind(place(mem, row + K.REFERENCE, position))
    for block in range(share(mem.c[row + K.RUN], lane, LANES)):
        at = T.Bind(block * LANES + lane)
        moved = T.Bind(T.abs(mem.a[here + at] - mem.a[there + at]))
        for tap in T.unroll(TAPS):
            sums[tap] = sums[tap] + moved * mem.w[weight + (block * TAPS + tap) * LANES + lane]


@T.inline
def weigh(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """The numbers of all taps; a refresh needs none, since it moves the reference."""
    lanes = T.alloc_buffer((ROUNDS * TAPS, THREADS), "float32", scope="shared")
    lane = T.Bind(thread % LANES)
    taps = T.Bind(mem.c[row + K.CHANNELS])
    blocks = T.Bind((mem.c[row + K.RUN] + (LANES - 1)) // LANES)
    for group in range((taps + (TAPS - 1)) // TAPS):
        sync()
        for i in range(ROUNDS):
            sums = T.alloc_buffer((TAPS,), "float32", scope="local")
            for tap in T.unroll(TAPS):
                sums[tap] = T.float32(0)
            item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
            if item < count:
                position = T.Bind(mem.q[first + item])
                if fresh(mem, position) == 0:
                    weight = T.Bind(mem.c[row + K.WEIGHT] + group * blocks * (TAPS * LANES))
                    weigh_taps(mem, thread, row, position, weight, sums)
            for tap in T.unroll(TAPS):
                lanes[i * TAPS + tap, thread] = sums[tap]
        fold(thread, (lanes, add))
        for i in range(ROUNDS):
            item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
            if T.And(item < count, T.And(lane < TAPS, group * TAPS + lane < taps)):
                position = T.Bind(mem.q[first + item])
                if fresh(mem, position) == 0:
                    out = T.Bind(place(mem, row + K.OUT, position))
                    mem.a[out + group * TAPS + lane] = lanes[i * TAPS + lane, thread - lane]


@T.inline
def score(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """Adds up what was weighed for the taps of a window."""
    if thread < count:
        position = T.Bind(mem.q[first + thread])
        window = T.Bind(mem.c[row + K.IN] + offset(mem, row, position))
        kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
        total = T.alloc_buffer((1,), "float32", scope="local")
        total[0] = T.float32(0)
        for kh in range(mem.c[row + K.KERNEL_H]):
            for kw in range(kernel_w):
                tap = T.meta_var(kh * kernel_w + kw)
                total[0] = total[0] + mem.a[window + kh * mem.c[row + K.STEP_H] + kw * mem.c[row + K.STEP_W] + tap]
        before = T.Bind(mem.a[place(mem, row + K.OPERANDS, position)])
        mem.a[place(mem, row + K.OUT, position)] = before + mem.w[mem.c[row + K.WEIGHT]] * total[0]
        mark(mem, row, position)


@T.inline
def follow(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """Moves a reference, and marks where a score notices."""
    lane = T.Bind(thread % LANES)
    for i in range(share(count, thread // LANES, SIDE_BY_SIDE)):
        position = T.Bind(mem.q[first + thread // LANES + i * SIDE_BY_SIDE])
        source = T.Bind(place(mem, row + K.IN, position))
        out = T.Bind(place(mem, row + K.OUT, position))
        for block in range(share(mem.c[row + K.CHANNELS], lane, LANES)):
            mem.a[out + block * LANES + lane] = mem.a[source + block * LANES + lane]
        weighed = T.Bind(place(mem, row + K.REFERENCE, position))
        for block in range(share(mem.c[row + K.RUN], lane, LANES)):
            tap = T.Bind(weighed + block * LANES + lane)
            if T.Or(fresh(mem, position) > 0, mem.a[tap] != T.float32(0)):
                mark(mem, row, position)
            mem.a[tap] = T.float32(0)


@T.inline
def look(mem: Any, row: Any, stream: Any, top: Any, left: Any, rows: Any, columns: Any) -> None:
    """Opens one block if a score of it is new and any exceeds the limit: marks it, and zeroes its scores."""
    all = T.Bind(mem.n[cell(mem, T.int64(Cell.REFRESH), stream)])
    computed = T.Bind(stream * mem.bytes + mem.c[mem.c[row + K.SOURCES] + S.MAP])
    seen = T.alloc_buffer((1,), "int64", scope="local")
    largest = T.alloc_buffer((1,), "float32", scope="local")
    seen[0] = all
    largest[0] = T.float32(-FLT_MAX)
    for j in range(rows):
        for k in range(columns):
            at = T.meta_var(computed + (top + j) * mem.c[row + K.MAP_ROW] + left + k)
            seen[0] = seen[0] | T.Cast("int64", mem.m[at])
            found = T.meta_var(mem.a[place(mem, row + K.OUT, packed(stream, top + j, left + k))])
            largest[0] = T.max(largest[0], found)
    if T.And(seen[0] > 0, T.Or(all > 0, largest[0] > mem.w[mem.c[row + K.THRESHOLD]])):
        for j in range(rows):
            for k in range(columns):
                position = T.Bind(packed(stream, top + j, left + k))
                mem.a[place(mem, row + K.OUT, position)] = T.float32(0)
                mark(mem, row, position)


@T.inline
def open_blocks(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Opens the blocks with a new score in which any score exceeds the limit; a refresh opens everything.

    A row of blocks without a new score costs one look.
    """
    side = T.Bind(mem.c[row + K.BLOCK])
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    bands = T.Bind(share(height, T.int64(0), side))
    for i in range(share(lines(mem, bands), block, blocks)):
        stream = T.Bind(stream_at(mem, block + i * blocks, bands))
        top = T.Bind(line_at(block + i * blocks, bands) * side)
        rows = T.Bind(T.min(side, height - top))
        some = T.alloc_buffer((1,), "int64", scope="local")
        some[0] = mem.n[cell(mem, T.int64(Cell.REFRESH), stream)]
        for j in range(rows):
            flag = T.meta_var(mem.m[stream * mem.bytes + mem.c[mem.c[row + K.SOURCES] + S.FLAGS] + top + j])
            some[0] = some[0] | T.Cast("int64", flag)
        if some[0] > 0:
            for k in range(share(share(width, T.int64(0), side), thread, THREADS)):
                left = T.Bind((thread + k * THREADS) * side)
                look(mem, row, stream, top, left, rows, T.min(side, width - left))
