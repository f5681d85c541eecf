"""Convolution at arbitrary positions: a register tile of some positions x some vectors of output channels.

The input is [positions, channels] with a border of zeros, so each position is one base offset and the loops over the
window have no tests. Weights are packed [panels, kh, kw, C_in, panel]; a panel stays in the cache over the tiles of a
chunk. Sums run in one order whatever the tile and the active set, so a value does not depend on what else is computed.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES, SHIFT, Column, Tile

K = Column
MASK = (1 << SHIFT) - 1
POSITIONS = 6  # of a depthwise tile


def offset(mem: Any, row: Any, position: Any) -> Any:
    """Where the window of a packed position starts, from the first position of the padded input."""
    y = (position >> SHIFT) * mem.c[row + K.STRIDE_H] * mem.c[row + K.IN_ROW]
    return y + (position & MASK) * mem.c[row + K.STRIDE_W] * mem.c[row + K.IN_PIXEL]


@T.inline
def load(sums: Any, p: Any, source: Any, at: Any) -> None:
    """A vector of sums from memory."""
    for v in T.vectorized(LANES):
        sums[p, v] = source[at + v]


@T.inline
def accumulate(sums: Any, p: Any, x: Any, weights: Any, at: Any) -> None:
    """Adds one input value times a vector of weights."""
    for v in T.vectorized(LANES):
        sums[p, v] = sums[p, v] + x * weights[at + v]


@T.inline
def store(sums: Any, p: Any, target: Any, at: Any) -> None:
    """A vector of sums to memory."""
    for v in T.vectorized(LANES):
        target[at + v] = sums[p, v]


def conv(tile: Tile) -> Callable[..., None]:
    """The body for a register tile.

    The sums of each vector are a buffer of their own: TVM puts what is larger than a kilobyte on the heap.
    """

    def sums_of_vectors() -> list[Any]:
        return [T.alloc_buffer((tile.positions, LANES), "float32") for _ in range(tile.vectors)]

    def each(function: Callable[..., None], sums: list[Any], *arguments: Any) -> None:
        *others, at = arguments
        for vector in range(tile.vectors):
            function(sums[vector], *others, at + vector * LANES)

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        """Raw sums, bias included, of a panel at `count` positions, into the task's scratch."""
        pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
        kernel_h = T.Bind(mem.c[row + K.KERNEL_H])
        kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
        run = T.Bind(mem.c[row + K.RUN])
        step_h = T.Bind(mem.c[row + K.STEP_H])
        step_w = T.Bind(mem.c[row + K.STEP_W])
        group = T.Bind(panel // mem.c[row + K.PANELS])
        width = T.meta_var(tile.vectors * LANES)
        weight = T.Bind(mem.c[row + K.WEIGHT] + panel * kernel_h * kernel_w * run * width)
        bias = T.Bind(mem.c[row + K.BIAS] + panel * width)
        out = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE] + channel(mem, row, panel))
        source = T.Bind(mem.c[row + K.IN] + group * mem.c[row + K.GROUP_IN])
        for number in range((count + tile.positions - 1) // tile.positions):
            base = T.alloc_buffer((tile.positions,), "int64")
            sums = T.meta_var(sums_of_vectors())
            for p in T.unroll(tile.positions):
                base[p] = source + offset(mem, row, mem.q[first + number * tile.positions + p])
                each(load, sums, p, mem.w, bias)
            for kh in range(kernel_h):
                for kw in range(kernel_w):
                    for k in range(run):
                        for p in T.unroll(tile.positions):
                            x = T.Bind(mem.a[base[p] + kh * step_h + kw * step_w + k])
                            each(accumulate, sums, p, x, mem.w, weight + ((kh * kernel_w + kw) * run + k) * width)
            for p in T.unroll(tile.positions):
                each(store, sums, p, mem.a, out + (number * tile.positions + p) * pitch)

    return body


def channel(mem: Any, row: Any, panel: Any) -> Any:
    """The first output channel of a panel."""
    panels = mem.c[row + K.PANELS]
    return panel // panels * mem.c[row + K.GROUP_OUT] + panel % panels * (mem.c[row + K.BLOCKS] * LANES)


@T.inline
def depthwise(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """One filter per channel; weights packed [kh, kw, C]."""
    scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
    kernel_h = T.Bind(mem.c[row + K.KERNEL_H])
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    step_h = T.Bind(mem.c[row + K.STEP_H])
    step_w = T.Bind(mem.c[row + K.STEP_W])
    padded = T.Bind(mem.c[row + K.BLOCKS] * LANES)
    for tile in range((count + POSITIONS - 1) // POSITIONS):
        for block in range(mem.c[row + K.BLOCKS]):
            base = T.alloc_buffer((POSITIONS,), "int64")
            sums = T.alloc_buffer((POSITIONS, LANES), "float32")
            for p in T.unroll(POSITIONS):
                base[p] = mem.c[row + K.IN] + block * LANES + offset(mem, row, mem.q[first + tile * POSITIONS + p])
                for v in T.vectorized(LANES):
                    sums[p, v] = mem.w[mem.c[row + K.BIAS] + block * LANES + v]
            for kh in range(kernel_h):
                for kw in range(kernel_w):
                    weight = T.Bind(mem.c[row + K.WEIGHT] + (kh * kernel_w + kw) * padded + block * LANES)
                    for p in T.unroll(POSITIONS):
                        for v in T.vectorized(LANES):
                            sums[p, v] = sums[p, v] + mem.a[base[p] + kh * step_h + kw * step_w + v] * mem.w[weight + v]
            for p in T.unroll(POSITIONS):
                for v in T.vectorized(LANES):
                    mem.a[scratch + (tile * POSITIONS + p) * pitch + block * LANES + v] = sums[p, v]
