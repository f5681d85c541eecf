"""Reductions over the channels of a position, on a GPU: see `skipfx.runtime.kernels.reduce`, whose order this keeps.

LANES threads share a position, as in the epilogue: each merges the channels of its lane, and the lanes are folded as a
tree. All positions of a tile are folded together, so a barrier serves them all.
"""

from collections.abc import Callable
from typing import Any, Final

from tvm.script import tirx as T

from skipfx.runtime.kernels.arithmetic import exp
from skipfx.runtime.kernels.cuda.epilogue import ROUNDS
from skipfx.runtime.kernels.cuda.streams import place
from skipfx.runtime.kernels.cuda.thread import Body, fold, share, sync
from skipfx.runtime.kernels.reduce import Merge, Term, add, exponential, number_of, plain, squared
from skipfx.runtime.kernels.table import FLT_MAX, LANES, SIDE_BY_SIDE, THREADS, Column, Core

K = Column


def totals() -> Any:
    """A number per thread for every position of a tile that it shares; behind `reduce`, the first lane's counts."""
    return T.alloc_buffer((ROUNDS, THREADS), "float32", scope="shared")


@T.inline
def reduce(
    mem: Any, thread: Any, row: Any, first: Any, count: Any, lanes: Any, start: Any, merge: Any, term: Any
) -> None:
    """Merges `term(i)` of all channels of the positions; i says which of the thread's positions it is."""
    sync()
    for i in range(ROUNDS):
        item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
        lanes[i, thread] = T.float32(start)
        if item < count:
            base = T.Bind(place(mem, row + K.IN, mem.q[first + item]))
            for block in range(share(mem.c[row + K.GROUP_IN], thread % LANES, LANES)):
                channel = T.Bind(block * LANES + thread % LANES)
                lanes[i, thread] = merge(lanes[i, thread], term(i)(mem.a[base + channel], channel))
    fold(thread, (lanes, merge))


@T.inline
def spread(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any, value: Any) -> None:
    """Writes `value(i, x)` for every channel x of the positions."""
    for i in range(ROUNDS):
        item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
        if item < count:
            base = T.Bind(place(mem, row + K.IN, mem.q[first + item]))
            out = T.Bind(scratch + item * mem.c[row + K.SCRATCH_PITCH])
            for block in range(share(mem.c[row + K.GROUP_IN], thread % LANES, LANES)):
                channel = T.Bind(block * LANES + thread % LANES)
                mem.a[out + channel] = value(i, mem.a[base + channel])


@T.inline
def keep(mem: Any, thread: Any, row: Any, count: Any, scratch: Any, value: Any) -> None:
    """Writes `value(i)` for each of the positions."""
    for i in range(ROUNDS):
        item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
        if T.And(item < count, thread % LANES == 0):
            mem.a[scratch + item * mem.c[row + K.SCRATCH_PITCH]] = value(i)


def one_number(start: float, merge: Merge, term: Term, scaled: bool = False) -> Body:
    """The body that merges `term` of all channels; a sum is scaled by the factor of its step."""

    @T.inline
    def body(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        lanes = totals()
        reduce(mem, thread, row, first, count, lanes, start, merge, lambda i: term)
        factor = T.meta_var(mem.w[mem.c[row + K.WEIGHT]] if scaled else T.float32(1))
        keep(mem, thread, row, count, scratch, lambda i: lanes[i, thread] * factor)

    return body


@T.inline
def channel_argmax(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """The first of the largest channels, as a number."""
    largest = totals()
    reduce(mem, thread, row, first, count, largest, -FLT_MAX, T.max, lambda i: plain)
    found = totals()
    own = T.Bind(thread // LANES * LANES)
    reduce(mem, thread, row, first, count, found, FLT_MAX, T.min, lambda i: number_of(largest[i, own]))
    keep(mem, thread, row, count, scratch, lambda i: found[i, thread])


@T.inline
def channel_norm(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
    """(x - mean) / sqrt(variance + eps)."""
    size = T.Bind(T.Cast("float32", mem.c[row + K.GROUP_IN]))
    eps = T.Bind(mem.w[mem.c[row + K.WEIGHT]])
    own = T.Bind(thread // LANES * LANES)
    sums = totals()
    reduce(mem, thread, row, first, count, sums, 0.0, add, lambda i: plain)
    squares = totals()
    reduce(mem, thread, row, first, count, squares, 0.0, add, lambda i: squared(sums[i, own] / size))
    factor = T.meta_var(lambda i: T.float32(1) / T.sqrt(squares[i, own] / size + eps))
    spread(mem, thread, row, first, count, scratch, lambda i, x: (x - sums[i, own] / size) * factor(i))


def softmax(value: Callable[[Any, Any, Any], Any]) -> Body:
    """The body that writes `value(x, largest, sum of exp(x - largest))`."""

    @T.inline
    def body(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        own = T.Bind(thread // LANES * LANES)
        largest = totals()
        reduce(mem, thread, row, first, count, largest, -FLT_MAX, T.max, lambda i: plain)
        total = totals()
        reduce(mem, thread, row, first, count, total, 0.0, add, lambda i: exponential(largest[i, own]))
        spread(mem, thread, row, first, count, scratch, lambda i, x: value(x, largest[i, own], total[i, own]))

    return body


REDUCTIONS: Final[dict[Core, Body]] = {
    Core.SUM: one_number(0.0, add, plain, scaled=True),
    Core.MAX: one_number(-FLT_MAX, T.max, plain),
    Core.MIN: one_number(FLT_MAX, T.min, plain),
    Core.ARGMAX: channel_argmax,
    Core.NORM: channel_norm,
    Core.SOFTMAX: softmax(lambda x, largest, total: exp(x - largest) / total),
    Core.LOG_SOFTMAX: softmax(lambda x, largest, total: x - (largest + T.log(total))),
}
