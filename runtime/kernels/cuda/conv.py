"""Convolution on a GPU: a gathered implicit matrix product.

A block takes a tile of active positions, wherever they lie, and several blocks of LANES output channels at a time. Of
each kernel tap it brings some input channels after the other into shared memory, of the gathered rows and of the
weights, and the next ones while it multiplies (`stage.py`, `product.py`). Sums start from the bias and run tap by tap,
channel by channel, whatever else is active.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.product import Product, product
from skipfx.runtime.kernels.cuda.schedule import Schedule
from skipfx.runtime.kernels.cuda.stage import bring_rows, bring_weights, commit, wait
from skipfx.runtime.kernels.cuda.streams import offset
from skipfx.runtime.kernels.cuda.thread import share, sync
from skipfx.runtime.kernels.table import CHUNK, LANES, THREADS, TOGETHER, Column, chunk_words

K = Column
# what a thread knows of the part that is brought next: kernel row, kernel column, first channel; and of the one that is
# multiplied next: its first channel
ROW, COLUMN, CHANNEL, MULTIPLIED = range(4)


@T.inline
def gather(mem: Any, row: Any, thread: Any, first: Any, count: Any, base: Any, positions: int) -> None:
    """Where each position's window starts; what is missing of a tile repeats its last position."""
    if thread < positions:
        base[thread] = offset(mem, row, mem.q[first + T.min(thread, count - 1)])


@T.inline
def advance(at: Any, depth: int, run: Any, width: Any) -> None:
    """Goes on to the next channels, or to the next tap."""
    at[CHANNEL] = at[CHANNEL] + depth
    if at[CHANNEL] >= run:
        at[CHANNEL] = 0
        at[COLUMN] = at[COLUMN] + 1
        if at[COLUMN] == width:
            at[COLUMN] = 0
            at[ROW] = at[ROW] + 1


def small(number: Any) -> Any:
    """A number that fits 32 bits, of which registers hold twice as many."""
    return T.Cast("int32", number)


def large(number: Any) -> Any:
    """A number that addresses are made of."""
    return T.Cast("int64", number)


def bring(schedule: Schedule) -> Callable[..., None]:
    """Brings the next part of rows and weights into a stage."""
    wide, single, weights = bring_rows(schedule, TOGETHER), bring_rows(schedule, 1), bring_weights(schedule)
    words = chunk_words(schedule.precision)

    @T.inline
    def body(
        mem: Any, row: Any, thread: Any, base: Any, at: Any, source: Any, weight: Any, spare: Any, stage: Any,
        x: Any, b: Any,
    ) -> None:  # fmt: skip
        run = T.Bind(small(mem.c[row + K.RUN]))
        height = T.Bind(small(mem.c[row + K.KERNEL_H]))
        width = T.Bind(small(mem.c[row + K.KERNEL_W]))
        chunks = T.Bind((run + (CHUNK - 1)) // CHUNK)
        left = T.Bind(run - at[CHANNEL])
        down = T.Bind(large(at[ROW]) * mem.c[row + K.STEP_H])
        tap = T.Bind(source + down + large(at[COLUMN]) * mem.c[row + K.STEP_W] + large(at[CHANNEL]))
        if mem.c[row + K.WIDE] > 0:
            wide(mem, thread, base, tap, left, stage, x)
        else:
            single(mem, thread, base, tap, left, stage, x)
        passed = T.Bind((at[ROW] * width + at[COLUMN]) * chunks + at[CHANNEL] // CHUNK)
        weights(mem, thread, weight + large(passed * words), height * width * chunks * words, left, spare, stage, b)
        advance(at, schedule.chunks * CHUNK, run, width)

    return body


def tile(schedule: Schedule, sum_up: Product) -> Callable[..., None]:
    """Raw sums of a tile of positions and of `panels` blocks of channels, into the scratch at `out`."""
    fetch = bring(schedule)
    stages, depth = schedule.stages, schedule.chunks * CHUNK
    rows = (stages, schedule.chunks, schedule.positions, CHUNK)
    weights = (stages, schedule.panels, schedule.chunks, chunk_words(schedule.precision))

    @T.inline
    def body(
        mem: Any, row: Any, thread: Any, base: Any, source: Any, weight: Any, bias: Any, spare: Any, out: Any
    ) -> None:
        x = T.alloc_buffer(rows, "float32", scope="shared")
        b = T.alloc_buffer(weights, "float32", scope="shared")
        sums = T.alloc_buffer((sum_up.sums,), "float32", scope="local")
        at = T.alloc_buffer((4,), "int32", scope="local")
        run = T.Bind(small(mem.c[row + K.RUN]))
        parts = T.Bind(small(mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W]) * ((run + (depth - 1)) // depth))
        for i in T.unroll(4):
            at[i] = 0
        for i in T.unroll(sum_up.sums):
            channel = T.Bind(sum_up.place(thread, i)[1])
            sums[i] = T.float32(0)
            if channel < spare * LANES:
                sums[i] = mem.w[bias + large(channel)]
        sync()
        for part in T.unroll(stages - 1):
            if part < parts:
                fetch(mem, row, thread, base, at, source, weight, spare, part, x, b)
            commit(schedule)
        for part in range(parts):
            wait(schedule)
            sync()
            if part + (stages - 1) < parts:
                fetch(mem, row, thread, base, at, source, weight, spare, (part + (stages - 1)) % stages, x, b)
            commit(schedule)
            sum_up.add(thread, x, b, part % stages, run - at[MULTIPLIED], spare, sums)
            at[MULTIPLIED] = T.if_then_else(at[MULTIPLIED] + depth < run, at[MULTIPLIED] + depth, 0)
        for i in T.unroll(sum_up.sums):
            channel = T.Bind(sum_up.place(thread, i)[1])
            if channel < spare * LANES:
                position = T.meta_var(large(sum_up.place(thread, i)[0]))
                mem.a[out + position * mem.c[row + K.SCRATCH_PITCH] + large(channel)] = sums[i]

    return body


def conv(schedule: Schedule) -> Callable[..., None]:
    """Raw sums, bias included, of `count` positions into the scratch.

    A group writes whole blocks of channels; what stands behind its last channel is written again by the next group.
    """
    compute = tile(schedule, product(schedule))
    panels, words = schedule.panels, chunk_words(schedule.precision)

    @T.inline
    def body(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        base = T.alloc_buffer((schedule.positions,), "int64", scope="shared")
        blocks = T.Bind(mem.c[row + K.PANELS])
        chunks = T.Bind((mem.c[row + K.RUN] + (CHUNK - 1)) // CHUNK)
        panel_words = T.Bind(mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W] * chunks * words)
        sync()
        gather(mem, row, thread, first, count, base, schedule.positions)
        for group in range(mem.c[row + K.GROUPS]):
            source = T.Bind(mem.c[row + K.IN] + group * mem.c[row + K.GROUP_IN])
            for part in range((blocks + (panels - 1)) // panels):
                panel = T.Bind(group * blocks + part * panels)
                weight = T.Bind(mem.c[row + K.WEIGHT] + panel * panel_words)
                out = T.Bind(scratch + group * mem.c[row + K.GROUP_OUT] + part * (panels * LANES))
                bias = T.Bind(mem.c[row + K.BIAS] + panel * LANES)
                spare = T.Bind(small(blocks - part * panels))
                compute(mem, row, small(thread), base, source, weight, bias, spare, out)

    return body


@T.inline
def depthwise(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """One filter per channel; weights packed [kh, kw, C]."""
    lane = T.Bind(thread % LANES)
    padded = T.Bind(mem.c[row + K.BLOCKS] * LANES)
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    for i in range(share(count, thread // LANES, THREADS // LANES)):
        place = T.Bind(thread // LANES + i * (THREADS // LANES))
        base = T.Bind(mem.c[row + K.IN] + offset(mem, row, mem.q[first + place]))
        for block in range(mem.c[row + K.BLOCKS]):
            channel = T.Bind(block * LANES + lane)
            total = T.alloc_buffer((1,), "float32", scope="local")
            total[0] = mem.w[mem.c[row + K.BIAS] + channel]
            if channel < mem.c[row + K.CHANNELS]:
                for kh in range(mem.c[row + K.KERNEL_H]):
                    for kw in range(kernel_w):
                        at = T.Bind(base + kh * mem.c[row + K.STEP_H] + kw * mem.c[row + K.STEP_W] + channel)
                        total[0] = (
                            total[0]
                            + mem.a[at] * mem.w[mem.c[row + K.WEIGHT] + (kh * kernel_w + kw) * padded + channel]
                        )
            mem.a[scratch + place * mem.c[row + K.SCRATCH_PITCH] + channel] = total[0]
