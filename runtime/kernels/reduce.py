"""Reductions over the channels of a position: sums and extremes, and the norms and softmaxes built on them.

Lanes are reduced first, block after block, then folded as a tree: one order, whatever the active set.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.arithmetic import exp
from skipfx.runtime.kernels.lanes import fold
from skipfx.runtime.kernels.table import FLT_MAX, LANES, MASK, SHIFT, Column

K = Column
Merge = Callable[[Any, Any], Any]
Term = Callable[[Any, Any], Any]  # of a value and its channel


def add(total: Any, value: Any) -> Any:
    """A sum."""
    return total + value


@T.inline
def gather(mem: Any, row: Any, base: Any, lanes: Any, start: Any, merge: Any, term: Any) -> None:
    """Merges `term` of all channels of a position into lane 0."""
    for v in T.vectorized(LANES):
        lanes[v] = T.float32(start)
    for block in range(mem.c[row + K.BLOCKS]):
        for v in T.vectorized(LANES):
            channel = T.meta_var(block * LANES + v)
            value = T.meta_var(term(mem.a[base + channel], channel))
            lanes[v] = merge(lanes[v], T.Select(channel < mem.c[row + K.GROUP_IN], value, T.float32(start)))
    fold(lanes, merge)


def plain(value: Any, channel: Any) -> Any:
    """The value itself."""
    return value


def squared(mean: Any) -> Term:
    """(x - mean)^2."""
    return lambda value, channel: (value - mean) * (value - mean)


def exponential(largest: Any) -> Term:
    """exp(x - largest), which does not overflow."""
    return lambda value, channel: exp(value - largest)


def number_of(largest: Any) -> Term:
    """The channel's number where it is the largest."""
    return lambda value, channel: T.Select(value >= largest, T.Cast("float32", channel), T.float32(FLT_MAX))


def per_position(one: Callable[..., None]) -> Callable[..., None]:
    """The body that calls `one(mem, row, base, out)` for every position: where it is read, where it goes in scratch."""

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            place = T.meta_var(
                (position >> SHIFT) * mem.c[row + K.IN_ROW] + (position & MASK) * mem.c[row + K.IN_PIXEL]
            )
            base = T.Bind(mem.c[row + K.IN] + place)
            out = T.Bind(scratch + i * mem.c[row + K.SCRATCH_PITCH])
            one(mem, row, base, out)

    return body


def extreme(start: float, merge: Merge) -> Callable[..., None]:
    """The largest or smallest channel."""

    @T.inline
    def one(mem: Any, row: Any, base: Any, out: Any) -> None:
        lanes = T.alloc_buffer((LANES,), "float32")
        gather(mem, row, base, lanes, start, merge, plain)
        mem.a[out] = lanes[0]

    return per_position(one)


@T.inline
def _sum(mem: Any, row: Any, base: Any, out: Any) -> None:
    lanes = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, lanes, 0.0, add, plain)
    mem.a[out] = lanes[0] * mem.w[mem.c[row + K.WEIGHT]]


@T.inline
def _argmax(mem: Any, row: Any, base: Any, out: Any) -> None:
    """The first of the largest channels, as a number."""
    lanes = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, lanes, -FLT_MAX, T.max, plain)
    largest = T.Bind(lanes[0])
    found = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, found, FLT_MAX, T.min, number_of(largest))
    mem.a[out] = found[0]


@T.inline
def _norm(mem: Any, row: Any, base: Any, out: Any) -> None:
    """(x - mean) / sqrt(variance + eps)."""
    size = T.Bind(T.Cast("float32", mem.c[row + K.GROUP_IN]))
    lanes = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, lanes, 0.0, add, plain)
    mean = T.Bind(lanes[0] / size)
    squares = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, squares, 0.0, add, squared(mean))
    factor = T.Bind(T.float32(1) / T.sqrt(squares[0] / size + mem.w[mem.c[row + K.WEIGHT]]))
    for block in range(mem.c[row + K.BLOCKS]):
        for v in T.vectorized(LANES):
            mem.a[out + block * LANES + v] = (mem.a[base + block * LANES + v] - mean) * factor


@T.inline
def _softmax(mem: Any, row: Any, base: Any, out: Any) -> None:
    lanes = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, lanes, -FLT_MAX, T.max, plain)
    largest = T.Bind(lanes[0])
    total = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, total, 0.0, add, exponential(largest))
    for block in range(mem.c[row + K.BLOCKS]):
        for v in T.vectorized(LANES):
            mem.a[out + block * LANES + v] = exp(mem.a[base + block * LANES + v] - largest) / total[0]


@T.inline
def _log_softmax(mem: Any, row: Any, base: Any, out: Any) -> None:
    lanes = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, lanes, -FLT_MAX, T.max, plain)
    largest = T.Bind(lanes[0])
    total = T.alloc_buffer((LANES,), "float32")
    gather(mem, row, base, total, 0.0, add, exponential(largest))
    shift = T.Bind(largest + T.log(total[0]))
    for block in range(mem.c[row + K.BLOCKS]):
        for v in T.vectorized(LANES):
            mem.a[out + block * LANES + v] = mem.a[base + block * LANES + v] - shift


channel_max = extreme(-FLT_MAX, T.max)
channel_min = extreme(FLT_MAX, T.min)
channel_sum = per_position(_sum)
channel_argmax = per_position(_argmax)
channel_norm = per_position(_norm)
channel_softmax = per_position(_softmax)
channel_log_softmax = per_position(_log_softmax)
