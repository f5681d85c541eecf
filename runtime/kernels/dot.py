"""Convolution with few output channels at arbitrary positions: a register tile of some positions, channel by channel.

A vector of output channels would be empty for the most part, so a vector runs along the input channels instead, and is
folded at the end. Weights are packed [C_out, kh, kw, C_in]. Sums run in one order whatever the active set.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.approach import ahead, asks
from skipfx.runtime.kernels.conv import End, multiply
from skipfx.runtime.kernels.lanes import fold
from skipfx.runtime.kernels.memory import offset
from skipfx.runtime.kernels.reduce import add
from skipfx.runtime.kernels.table import LANES, Column, Tile

K = Column


@T.inline
def clear(sums: Any, p: Any) -> None:
    """A vector of zeros."""
    for v in T.vectorized(LANES):
        sums[p, v] = T.float32(0)


@T.inline
def total(sums: Any, p: Any, target: Any, channel: Any, bias: Any) -> None:
    """Writes the sum of a vector's lanes, and a bias, to a channel."""
    lanes = T.alloc_buffer((LANES,), "float32")
    for v in T.vectorized(LANES):
        lanes[v] = sums[p, v]
    fold(lanes, add)
    target[p, channel] = lanes[0] + bias


def dot(tile: Tile, end: End) -> Callable[..., None]:
    """The body for a register tile; `end` is given sums as by `conv`."""

    @T.inline
    def products(mem: Any, row: Any, start: Any, weight: Any, sums: Any) -> None:
        kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
        run = T.Bind(mem.c[row + K.RUN])
        for kh in range(mem.c[row + K.KERNEL_H]):
            for kw in range(kernel_w):
                source = T.Bind(kh * mem.c[row + K.STEP_H] + kw * mem.c[row + K.STEP_W])
                tap = T.Bind(weight + (kh * kernel_w + kw) * run)
                for block in range(run // LANES):
                    for p in T.unroll(tile.positions):
                        multiply(sums, p, mem.a, start[p] + source + block * LANES, mem.w, tap + block * LANES)

    @T.inline
    def tiled(mem: Any, task: Any, row: Any, first: Any, done: Any, panel: Any) -> None:
        start = T.alloc_buffer((tile.positions,), "int64")
        given = T.alloc_buffer((tile.positions, LANES), "float32")
        for p in T.unroll(tile.positions):
            start[p] = mem.c[row + K.IN] + offset(mem, row, mem.q[first + done + p])
            clear(given, p)
        size = T.Bind(mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W] * mem.c[row + K.RUN])
        for channel in range(mem.c[row + K.CHANNELS]):
            sums = T.alloc_buffer((tile.positions, LANES), "float32")
            for p in T.unroll(tile.positions):
                clear(sums, p)
            products(mem, row, start, mem.c[row + K.WEIGHT] + channel * size, sums)
            for p in T.unroll(tile.positions):
                total(sums, p, given, channel, mem.w[mem.c[row + K.BIAS] + channel])
        end(mem, task, row, first, done, panel, T.int64(0), [given], tile.positions, False)

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        asked = T.Bind(asks(mem, row))
        for number in range((count + tile.positions - 1) // tile.positions):
            done = T.Bind(number * tile.positions)
            if asked:
                ahead(mem, row, first, count, done, tile.positions, T.int64(0), T.int64(LANES))
            tiled(mem, task, row, first, done, panel)

    return body
