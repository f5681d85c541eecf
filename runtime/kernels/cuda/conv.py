"""Convolution on a GPU: a gathered implicit matrix product.

A block takes POSITIONS active positions, wherever they lie, and GROUP blocks of LANES output channels at a time. Of
each kernel tap it brings DEPTH input channels after the other into shared memory, of the gathered rows and of the
weights; a thread sums ROWS positions x GROUP channels in registers. Sums start from the bias and run in the order of
the CPU kernels (tap by tap, channel by channel), whatever else is active.
"""

from typing import Any, Final

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import offset
from skipfx.runtime.kernels.cuda.thread import share, sync
from skipfx.runtime.kernels.table import LANES, POSITIONS, THREADS, Column

K = Column
GROUP: Final = 4  # blocks of LANES output channels computed together
DEPTH: Final = 16  # input channels brought into shared memory together
ROWS: Final = POSITIONS * LANES // THREADS  # positions per thread


@T.inline
def gather(mem: Any, row: Any, thread: Any, first: Any, count: Any, base: Any) -> None:
    """Where each position's window starts; what is missing of a tile repeats its last position."""
    if thread < POSITIONS:
        base[thread] = offset(mem, row, mem.q[first + T.min(thread, count - 1)])


@T.inline
def load_rows(mem: Any, thread: Any, base: Any, tap: Any, channel: Any, run: Any, x: Any) -> None:
    """Brings DEPTH channels, from `channel` on, of the gathered rows at a tap into x [POSITIONS, DEPTH]."""
    for i in T.unroll(POSITIONS * DEPTH // THREADS):
        element = T.Bind(thread + i * THREADS)
        x[element // DEPTH, element % DEPTH] = T.float32(0)
        if channel + element % DEPTH < run:
            x[element // DEPTH, element % DEPTH] = mem.a[base[element // DEPTH] + tap + channel + element % DEPTH]


@T.inline
def load_weights(mem: Any, thread: Any, weight: Any, panel: Any, spare: Any, channel: Any, run: Any, b: Any) -> None:
    """Brings the weights of DEPTH input channels into b [DEPTH, output channels], with zeros where there are none.

    `panel` is the distance from one block of output channels to the next, `spare` how many blocks there are.
    """
    for i in T.unroll(DEPTH * LANES // THREADS):
        depth = T.Bind(thread // LANES + i * (THREADS // LANES))
        for j in T.unroll(GROUP):
            b[depth, j * LANES + thread % LANES] = T.float32(0)
            if T.And(channel + depth < run, T.int64(j) < spare):
                b[depth, j * LANES + thread % LANES] = mem.w[
                    weight + j * panel + (channel + depth) * LANES + thread % LANES
                ]


@T.inline
def tile(mem: Any, row: Any, thread: Any, base: Any, source: Any, weight: Any, bias: Any, spare: Any, out: Any) -> None:
    """Raw sums of POSITIONS positions and GROUP blocks of channels, into the scratch at `out`."""
    x = T.alloc_buffer((POSITIONS, DEPTH + 1), "float32", scope="shared")  # one more: rows in different banks
    b = T.alloc_buffer((DEPTH, GROUP * LANES), "float32", scope="shared")
    sums = T.alloc_buffer((ROWS, GROUP), "float32", scope="local")
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    run = T.Bind(mem.c[row + K.RUN])
    panel = T.Bind(mem.c[row + K.KERNEL_H] * kernel_w * run * LANES)
    lane = T.Bind(thread % LANES)
    for j in T.unroll(GROUP):
        for i in T.unroll(ROWS):
            sums[i, j] = T.float32(0)
            if T.int64(j) < spare:
                sums[i, j] = mem.w[bias + j * LANES + lane]
    for kh in range(mem.c[row + K.KERNEL_H]):
        for kw in range(kernel_w):
            for part in range((run + (DEPTH - 1)) // DEPTH):
                tap = T.Bind(source + kh * mem.c[row + K.STEP_H] + kw * mem.c[row + K.STEP_W])
                taps = T.Bind(weight + (kh * kernel_w + kw) * run * LANES)
                sync()
                load_rows(mem, thread, base, tap, part * DEPTH, run, x)
                load_weights(mem, thread, taps, panel, spare, part * DEPTH, run, b)
                sync()
                for k in range(DEPTH):
                    for i in T.unroll(ROWS):
                        for j in T.unroll(GROUP):
                            sums[i, j] = sums[i, j] + x[thread // LANES * ROWS + i, k] * b[k, j * LANES + lane]
    for i in T.unroll(ROWS):
        for j in T.unroll(GROUP):
            if T.int64(j) < spare:
                at = T.meta_var((thread // LANES * ROWS + i) * mem.c[row + K.SCRATCH_PITCH])
                mem.a[out + at + j * LANES + lane] = sums[i, j]


@T.inline
def conv(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """Raw sums, bias included, of `count` positions into the scratch.

    A group writes whole blocks of channels; what stands behind its last channel is written again by the next group.
    """
    base = T.alloc_buffer((POSITIONS,), "int64", scope="shared")
    blocks = T.Bind(mem.c[row + K.PANELS])
    taps = T.Bind(mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W])
    sync()
    gather(mem, row, thread, first, count, base)
    for group in range(mem.c[row + K.GROUPS]):
        source = T.Bind(mem.c[row + K.IN] + group * mem.c[row + K.GROUP_IN])
        for part in range((blocks + (GROUP - 1)) // GROUP):
            panel = T.Bind(group * blocks + part * GROUP)
            weight = T.Bind(mem.c[row + K.WEIGHT] + panel * taps * mem.c[row + K.RUN] * LANES)
            out = T.Bind(scratch + group * mem.c[row + K.GROUP_OUT] + part * (GROUP * LANES))
            bias = T.Bind(mem.c[row + K.BIAS] + panel * LANES)
            tile(mem, row, thread, base, source, weight, bias, blocks - part * GROUP, out)


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
