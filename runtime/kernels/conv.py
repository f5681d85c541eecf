"""Convolution at arbitrary positions: a register tile of some positions x some vectors of output channels.

What is left of a chunk is computed by half a tile, where that is enough and fast.

The input is [positions, channels] with a border of zeros, so each position is one base offset and the loops over the
window have no tests. Weights are packed [panels, kh, kw, C_in, panel]; a panel stays in the cache over the tiles of a
chunk. Sums run in one order whatever the tile and the active set, so a value does not depend on what else is computed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tvm.script import tirx as T

from skipfx.runtime.kernels.approach import PAGE, READ, ahead, asks, fetch
from skipfx.runtime.kernels.memory import offset
from skipfx.runtime.kernels.table import LANES, Cell, Column, Tile

K = Column


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


# (memory, task, row, first and number done of the positions, panel, first channel, sums, positions of the tile, whether
# they follow each other in a row)
End = Callable[..., None]


def registers(positions: int, vectors: int) -> list[Any]:
    """The sums of a tile: a buffer per vector, because TVM puts what is larger than a kilobyte on the heap."""
    return [T.alloc_buffer((positions, LANES), "float32") for _ in range(vectors)]


def each(function: Callable[..., None], sums: list[Any], p: Any, places: list[tuple[Any, Any]], *values: Any) -> None:
    """Calls a function for every vector of the sums, with places (a buffer and where in it) that move on with them."""
    for vector, one in enumerate(sums):
        function(one, p, *(part for memory, at in places for part in (memory, at + vector * LANES)), *values)


@T.inline
def to_scratch(
    mem: Any, task: Any, row: Any, first: Any, done: Any, panel: Any, at: Any, sums: Any, positions: Any, along: Any
) -> None:
    """The end of a tile whose epilogue runs by itself: sums, from channel `at` on, to the task's scratch."""
    pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
    out = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE] + at)
    for p in T.unroll(positions):
        each(store, sums, p, [(mem.a, out + (done + p) * pitch)])


def channel(mem: Any, row: Any, panel: Any) -> Any:
    """The first output channel of a panel."""
    panels = mem.c[row + K.PANELS]
    return panel // panels * mem.c[row + K.GROUP_OUT] + panel % panels * (mem.c[row + K.BLOCKS] * LANES)


def follow(mem: Any, first: Any, left: Any, positions: Any) -> Any:
    """Whether so many positions follow each other in a row."""
    last = positions - 1
    return T.And(left > last, mem.q[first + last] - mem.q[first] == last)


class Panel(NamedTuple):
    """What the tiles of a panel share: its window, where it reads and writes, and whether memory is asked for ahead."""

    kernel_h: Any
    kernel_w: Any
    run: Any
    step_h: Any
    step_w: Any
    source: Any
    weight: Any
    bias: Any
    at: Any
    asked: Any


def conv(tile: Tile, end: End) -> Callable[..., None]:
    """The body for a register tile; `end` is given the sums, bias included, of a panel at its positions."""

    @T.inline
    def tiled(
        mem: Any, task: Any, row: Any, first: Any, count: Any, begin: Any, panel: Any, of: Any, positions: Any
    ) -> None:
        done = T.Bind(begin)
        width = T.meta_var(tile.vectors * LANES)
        if of.asked:
            ahead(mem, row, first, count, done, positions, of.at, width)
        base = T.alloc_buffer((positions,), "int64")
        sums = T.meta_var(registers(positions, tile.vectors))
        for p in T.unroll(positions):
            base[p] = of.source + offset(mem, row, mem.q[first + done + p])
            each(load, sums, p, [(mem.w, of.bias)])
        for kh in range(of.kernel_h):
            for kw in range(of.kernel_w):
                for k in range(of.run):
                    tap = T.meta_var(of.weight + ((kh * of.kernel_w + kw) * of.run + k) * width)
                    fetch(mem.w, tap + PAGE, width, READ)
                    for p in T.unroll(positions):
                        x = T.Bind(mem.a[base[p] + kh * of.step_h + kw * of.step_w + k])
                        each(accumulate, sums, p, [(mem.w, tap)], x)
        end(mem, task, row, first, done, panel, of.at, sums, positions, False)

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        kernel_h = T.Bind(mem.c[row + K.KERNEL_H])
        kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
        run = T.Bind(mem.c[row + K.RUN])
        step_h = T.Bind(mem.c[row + K.STEP_H])
        step_w = T.Bind(mem.c[row + K.STEP_W])
        group = T.Bind(panel // mem.c[row + K.PANELS])
        width = T.meta_var(tile.vectors * LANES)
        weight = T.Bind(mem.c[row + K.WEIGHT] + panel * kernel_h * kernel_w * run * width)
        bias = T.Bind(mem.c[row + K.BIAS] + panel * width)
        at = T.Bind(channel(mem, row, panel))
        source = T.Bind(mem.c[row + K.IN] + group * mem.c[row + K.GROUP_IN])
        asked = T.Bind(asks(mem, row))
        of = T.meta_var(Panel(kernel_h, kernel_w, run, step_h, step_w, source, weight, bias, at, asked))
        whole = T.Bind((count + (tile.positions - tile.half - 1)) // tile.positions)
        for number in range(whole):
            tiled(mem, task, row, first, count, number * tile.positions, panel, of, tile.positions)
        if tile.half > 0:
            if count > whole * tile.positions:
                tiled(mem, task, row, first, count, whole * tile.positions, panel, of, tile.half)

    return body


def sweep(sums: list[Any], tile: Tile, mem: Any, line: Any, pixel: Any, weight: Any, padded: Any) -> None:
    """A row of the window at positions that follow each other: what more than one of them reads is loaded once."""
    columns, stride = tile.columns or (0, 1)
    for vector, one in enumerate(sums):
        for column in range((tile.positions - 1) * stride + columns):
            for p in range(tile.positions):
                kw = column - p * stride
                if 0 <= kw < columns:
                    at = vector * LANES
                    multiply(one, p, mem.a, line + column * pixel + at, mem.w, weight + kw * padded + at)


def upcoming(tile: Tile, mem: Any, line: Any, pixel: Any) -> None:
    """Asks for what the tile behind reads of a row of the window, and this one has not read."""
    columns, stride = tile.columns or (0, 1)
    first = (tile.positions - 1) * stride + columns
    for column in range(first, first + tile.positions * stride):
        fetch(mem.a, line + column * pixel, tile.vectors * LANES, READ)


def depthwise(tile: Tile, end: End) -> Callable[..., None]:
    """The body for a register tile; `end` is given sums as by `conv`. One filter per channel; weights [kh, kw, C]."""

    @T.inline
    def tiled(mem: Any, task: Any, row: Any, first: Any, done: Any, panel: Any, along: Any) -> None:
        start = T.alloc_buffer((tile.positions,), "int64")
        for p in T.unroll(1 if along else tile.positions):
            start[p] = mem.c[row + K.IN] + offset(mem, row, mem.q[first + done + p])
        kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
        step_h = T.Bind(mem.c[row + K.STEP_H])
        step_w = T.Bind(mem.c[row + K.STEP_W])
        padded = T.Bind(mem.c[row + K.BLOCKS] * LANES)
        width = T.meta_var(tile.vectors * LANES)
        fresh = T.Bind(T.Select(mem.n[T.int64(Cell.REFRESH)] > 0, mem.c[row + K.FRESH], mem.c[row + K.KERNEL_H]))
        for part in range(padded // width):
            at = T.Bind(part * width)
            sums = T.meta_var(registers(tile.positions, tile.vectors))
            for p in T.unroll(tile.positions):
                each(load, sums, p, [(mem.w, mem.c[row + K.BIAS] + at)])
            for kh in range(mem.c[row + K.KERNEL_H]):
                weight = T.Bind(mem.c[row + K.WEIGHT] + kh * kernel_w * padded + at)
                if along:
                    if kh >= fresh:
                        upcoming(tile, mem, start[0] + kh * step_h + at, step_w)
                    sweep(sums, tile, mem, start[0] + kh * step_h + at, step_w, weight, padded)
                else:
                    for kw in range(kernel_w):
                        tap = T.Bind(kh * step_h + kw * step_w + at)
                        for p in T.unroll(tile.positions):
                            each(multiply, sums, p, [(mem.a, start[p] + tap), (mem.w, weight + kw * padded)])
            end(mem, task, row, first, done, panel, at, sums, tile.positions, along)

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        asked = T.Bind(asks(mem, row))
        for number in range((count + tile.positions - 1) // tile.positions):
            done = T.Bind(number * tile.positions)
            if asked:
                ahead(mem, row, first, count, done, tile.positions, T.int64(0), mem.c[row + K.BLOCKS] * LANES)
            if tile.columns is not None and follow(mem, first + done, count - done, tile.positions):
                tiled(mem, task, row, first, done, panel, True)
            else:
                tiled(mem, task, row, first, done, panel, False)

    return body
