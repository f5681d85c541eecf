"""Convolution at arbitrary positions: a register tile of some positions x some vectors of output channels.

The input is [positions, channels] with a border of zeros, so each position is one base offset and the loops over the
window have no tests. Weights are packed [panels, kh, kw, C_in, panel]; a panel stays in the cache over the tiles of a
chunk. Sums run in one order whatever the tile and the active set, so a value does not depend on what else is computed.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES, MASK, SHIFT, Column, Tile

K = Column


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
def accumulate(sums: Any, p: Any, weights: Any, at: Any, x: Any) -> None:
    """Adds one input value times a vector of weights."""
    for v in T.vectorized(LANES):
        sums[p, v] = sums[p, v] + x * weights[at + v]


@T.inline
def store(sums: Any, p: Any, target: Any, at: Any) -> None:
    """A vector of sums to memory."""
    for v in T.vectorized(LANES):
        target[at + v] = sums[p, v]


@T.inline
def multiply(sums: Any, p: Any, source: Any, at: Any, weights: Any, weight: Any) -> None:
    """Adds a vector of input values times a vector of weights."""
    for v in T.vectorized(LANES):
        sums[p, v] = sums[p, v] + source[at + v] * weights[weight + v]


def registers(tile: Tile) -> list[Any]:
    """The sums of a tile: a buffer per vector, because TVM puts what is larger than a kilobyte on the heap."""
    return [T.alloc_buffer((tile.positions, LANES), "float32") for _ in range(tile.vectors)]


def each(function: Callable[..., None], sums: list[Any], p: Any, places: list[tuple[Any, Any]], *values: Any) -> None:
    """Calls a function for every vector of the sums, with places (a buffer and where in it) that move on with them."""
    for vector, one in enumerate(sums):
        function(one, p, *(part for memory, at in places for part in (memory, at + vector * LANES)), *values)


def conv(tile: Tile) -> Callable[..., None]:
    """The body for a register tile."""

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
            sums = T.meta_var(registers(tile))
            for p in T.unroll(tile.positions):
                base[p] = source + offset(mem, row, mem.q[first + number * tile.positions + p])
                each(load, sums, p, [(mem.w, bias)])
            for kh in range(kernel_h):
                for kw in range(kernel_w):
                    for k in range(run):
                        for p in T.unroll(tile.positions):
                            x = T.Bind(mem.a[base[p] + kh * step_h + kw * step_w + k])
                            at = T.meta_var(weight + ((kh * kernel_w + kw) * run + k) * width)
                            each(accumulate, sums, p, [(mem.w, at)], x)
            for p in T.unroll(tile.positions):
                each(store, sums, p, [(mem.a, out + (number * tile.positions + p) * pitch)])

    return body


def channel(mem: Any, row: Any, panel: Any) -> Any:
    """The first output channel of a panel."""
    panels = mem.c[row + K.PANELS]
    return panel // panels * mem.c[row + K.GROUP_OUT] + panel % panels * (mem.c[row + K.BLOCKS] * LANES)


def depthwise(tile: Tile) -> Callable[..., None]:
    """The body for a register tile: one filter per channel; weights packed [kh, kw, C]."""

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
        kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
        step_h = T.Bind(mem.c[row + K.STEP_H])
        step_w = T.Bind(mem.c[row + K.STEP_W])
        padded = T.Bind(mem.c[row + K.BLOCKS] * LANES)
        out = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        width = T.meta_var(tile.vectors * LANES)
        for number in range((count + tile.positions - 1) // tile.positions):
            start = T.alloc_buffer((tile.positions,), "int64")
            for p in T.unroll(tile.positions):
                start[p] = mem.c[row + K.IN] + offset(mem, row, mem.q[first + number * tile.positions + p])
            for part in range(padded // width):
                sums = T.meta_var(registers(tile))
                for p in T.unroll(tile.positions):
                    each(load, sums, p, [(mem.w, mem.c[row + K.BIAS] + part * width)])
                for kh in range(mem.c[row + K.KERNEL_H]):
                    for kw in range(kernel_w):
                        weight = T.Bind(mem.c[row + K.WEIGHT] + (kh * kernel_w + kw) * padded + part * width)
                        tap = T.Bind(kh * step_h + kw * step_w + part * width)
                        for p in T.unroll(tile.positions):
                            each(multiply, sums, p, [(mem.a, start[p] + tap), (mem.w, weight)])
                for p in T.unroll(tile.positions):
                    each(store, sums, p, [(mem.a, out + (number * tile.positions + p) * pitch + part * width)])

    return body
