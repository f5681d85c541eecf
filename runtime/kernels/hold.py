"""The end of a step on a sparse frame, at each active position: pointwise arithmetic, the hold test, the changed bit.

y'  = expr(core value, operands, parameters)
N   = norm over the channels of y' - held
N > tau:  held = y', the position is changed
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.change import finite
from skipfx.runtime.kernels.epilogue import Value
from skipfx.runtime.kernels.lanes import copy, copy_vector, fold
from skipfx.runtime.kernels.memory import address, mark
from skipfx.runtime.kernels.table import LANES, MASK, SHIFT, Column

K = Column


def lengths(channels: int) -> list[tuple[int, int]]:
    """A vector's first `channels` numbers in as few stores as there are: where each starts, and how long it is."""
    found, done = [], 0
    for length in (LANES >> shift for shift in range(LANES.bit_length())):
        if channels & length:
            found.append((done, length))
            done += length
    return found


def hold(value: Value, channels: int, rms: bool) -> Callable[..., None]:
    """The body for the arithmetic of one expression.

    Args:
        value: the arithmetic.
        channels: how many there are, if so few that new values stay in registers; 0: any number.
        rms: the norm is the root mean square, whose sum of squares is compared; else the maximum.
    """

    def grown(norm: Any, delta: Any) -> Any:
        return norm + delta * delta if rms else T.max(norm, finite(T.abs(delta)))

    def merged(a: Any, b: Any) -> Any:
        return a + b if rms else T.max(a, b)

    @T.inline
    def measure(
        mem: Any, row: Any, y: Any, x: Any, scratch: Any, out: Any, at: Any, left: Any, new: Any, norm: Any
    ) -> None:
        """A vector of new values, of which `left` count, and what it adds to the norm."""
        delta = T.alloc_buffer((LANES,), "float32")
        for v in T.vectorized(LANES):
            new[v] = value(mem, row, mem.a[scratch + at + v], y, x, at, v)
        for v in T.vectorized(LANES):
            delta[v] = T.Select(T.Cast("int32", v) < left, new[v] - mem.a[out + at + v], T.float32(0))
        for v in T.vectorized(LANES):
            norm[v] = grown(norm[v], delta[v])

    @T.inline
    def store(mem: Any, out: Any, new: Any, done: Any, length: Any) -> None:
        for v in T.vectorized(length):
            mem.a[out + done + v] = new[done + v]

    def measure_all(mem: Any, row: Any, y: Any, x: Any, scratch: Any, out: Any, new: list[Any], norm: Any) -> None:
        for number, vector in enumerate(new):
            at = number * LANES
            measure(mem, row, y, x, scratch, out, T.int64(at), T.int32(channels - at), vector, norm)

    def store_all(mem: Any, out: Any, new: list[Any]) -> None:
        for number, vector in enumerate(new):
            at = number * LANES
            for done, length in lengths(min(LANES, channels - at)):
                store(mem, out + at, vector, done, length)

    @T.inline
    def few(mem: Any, row: Any, first: Any, count: Any, start: Any, spots: Any, found: Any) -> None:
        """With all new values of a position in registers, which are stored if it moved."""
        threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + int(rms)])
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(address(mem, row + K.OUT, y, x))
            new = T.meta_var([T.alloc_buffer((LANES,), "float32") for _ in range(0, channels, LANES)])
            norm = T.alloc_buffer((LANES,), "float32")
            for v in T.vectorized(LANES):
                norm[v] = T.float32(0)
            measure_all(mem, row, y, x, start + i * mem.c[row + K.SCRATCH_PITCH], out, new, norm)
            fold(norm, merged)
            if finite(norm[0]) > threshold:
                store_all(mem, out, new)
                mark(mem, row, y, x)
                found[0] = found[0] + T.int64(1)

    @T.inline
    def many(mem: Any, row: Any, first: Any, count: Any, start: Any, spots: Any, found: Any) -> None:
        """By way of the scratch; what moved is listed, since the processor would guess a branch wrong."""
        threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + int(rms)])
        size = T.Bind(mem.c[row + K.CHANNELS])
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(address(mem, row + K.OUT, y, x))
            scratch = T.Bind(start + i * mem.c[row + K.SCRATCH_PITCH])
            norm = T.alloc_buffer((LANES,), "float32")
            for v in T.vectorized(LANES):
                norm[v] = T.float32(0)
            for block in range((size + LANES - 1) // LANES):
                at = T.Bind(block * LANES)
                new = T.alloc_buffer((LANES,), "float32")
                measure(mem, row, y, x, scratch, out, at, T.Cast("int32", size - at), new, norm)
                copy_vector(mem.a, scratch + at, new, 0)
            fold(norm, merged)
            mem.q[spots + found[0]] = i
            found[0] = found[0] + T.Select(finite(norm[0]) > threshold, T.int64(1), T.int64(0))
        for k in range(found[0]):
            i = T.Bind(mem.q[spots + k])
            y = T.Bind(mem.q[first + i] >> SHIFT)
            x = T.Bind(mem.q[first + i] & MASK)
            out = T.Bind(address(mem, row + K.OUT, y, x))
            copy(mem.a, out, mem.a, start + i * mem.c[row + K.SCRATCH_PITCH], size, mem.c[row + K.SPARE])
            mark(mem, row, y, x)

    run = few if channels else many

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        start = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        spots = T.Bind(mem.c[row + K.SPOTS] + task * mem.c[row + K.SPOTS_SIZE])
        found = T.alloc_buffer((1,), "int64")
        found[0] = T.int64(0)
        run(mem, row, first, count, start, spots, found)
        mem.n[mem.c[row + K.COUNT] + task] = mem.n[mem.c[row + K.COUNT] + task] + found[0]

    return body
