"""The end of a step, at each position: pointwise arithmetic, the hold test, the write and the changed bit.

y'  = expr(core value, operands, parameters)            panel by panel, into scratch (on a refresh: where it is held)
N   = norm over the channels of y' - held               summed up panel by panel
N > tau:  held = y', the position is changed            `settle`, after the last panel
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.expr import Expr
from skipfx.runtime.kernels.arithmetic import evaluate
from skipfx.runtime.kernels.conv import channel
from skipfx.runtime.kernels.table import FLT_MAX, LANES, OPERAND_COLUMNS, SHIFT, Cell, Column

K = Column
MASK = (1 << SHIFT) - 1


@T.inline
def halve(squares: Any, largest: Any, half: Any) -> None:
    """Adds (maximises) the upper half of the lanes onto the lower."""
    for v in T.vectorized(half):
        squares[v] = squares[v] + squares[v + half]
        largest[v] = T.max(largest[v], largest[v + half])


def fold(squares: Any, largest: Any) -> None:
    """Reduces both to lane 0, as a tree."""
    half = LANES // 2
    while half:
        halve(squares, largest, half)
        half //= 2


Value = Callable[..., Any]


def value_of(expr: Expr, has_core: bool, broadcast: tuple[bool, ...]) -> Value:
    """The arithmetic of one expression, of (memory, row, scratch, y, x, first channel, lane).

    Args:
        expr: ("input", 0) is the core's value if there is a core; the operands follow.
        has_core: whether there is one.
        broadcast: per operand, whether it has one channel that serves all.
    """

    def value(mem: Any, row: Any, scratch: Any, y: Any, x: Any, at: Any, lane: Any) -> Any:
        def leaf(found: Expr) -> Any:
            kind, index = found
            if kind == "channel":
                return mem.w[mem.c[row + K.PARAMETERS + index] + at + lane]
            if has_core and index == 0:
                return mem.a[scratch + at + lane]
            number = index - int(has_core)
            column = row + K.OPERANDS + number * OPERAND_COLUMNS
            first = mem.c[column] + y * mem.c[column + 1] + x * mem.c[column + 2]
            return mem.a[first] if broadcast[number] else mem.a[first + at + lane]

        return evaluate(expr, leaf)

    return value


def epilogue(value: Value) -> Callable[..., None]:
    """The body for the arithmetic of one expression."""

    @T.inline
    def write(mem: Any, row: Any, first: Any, count: Any, start: Any, low: Any, high: Any) -> None:
        """New values to where they are held."""
        pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
        whole = T.Bind((high - low) // LANES)
        tail = T.Bind((high - low) % LANES)
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL])
            scratch = T.Bind(start + i * pitch)
            for block in range(whole):
                for v in T.vectorized(LANES):
                    mem.a[out + low + block * LANES + v] = value(mem, row, scratch, y, x, low + block * LANES, v)
            if tail > 0:
                for v in T.vectorized(LANES):
                    mem.a[scratch + high - tail + v] = value(mem, row, scratch, y, x, high - tail, v)
                for k in range(tail):
                    mem.a[out + high - tail + k] = mem.a[scratch + high - tail + k]

    @T.inline
    def measure(mem: Any, row: Any, first: Any, count: Any, start: Any, low: Any, high: Any) -> None:
        """New values to scratch, their distance from the held ones to the norms behind them."""
        pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL])
            scratch = T.Bind(start + i * pitch)
            norms = T.Bind(scratch + pitch - 2 * LANES)
            squares = T.alloc_buffer((LANES,), "float32")
            largest = T.alloc_buffer((LANES,), "float32")
            for v in T.vectorized(LANES):
                squares[v] = T.Select(low == 0, T.float32(0), mem.a[norms + v])
                largest[v] = T.Select(low == 0, T.float32(0), mem.a[norms + LANES + v])
            for block in range((high - low + LANES - 1) // LANES):
                at = T.Bind(low + block * LANES)
                new = T.alloc_buffer((LANES,), "float32")
                delta = T.alloc_buffer((LANES,), "float32")
                for v in T.vectorized(LANES):
                    new[v] = value(mem, row, scratch, y, x, at, v)
                for v in T.vectorized(LANES):
                    delta[v] = T.Select(at + v < high, new[v] - mem.a[out + at + v], T.float32(0))
                for v in T.vectorized(LANES):
                    mem.a[scratch + at + v] = new[v]
                    squares[v] = squares[v] + delta[v] * delta[v]
                    largest[v] = T.max(largest[v], T.abs(delta[v]))
            for v in T.vectorized(LANES):
                mem.a[norms + v] = squares[v]
                mem.a[norms + LANES + v] = largest[v]

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        low = T.Bind(channel(mem, row, panel))
        width = T.Bind(mem.c[row + K.BLOCKS] * LANES)
        high = T.Bind(low + T.min(width, mem.c[row + K.GROUP_OUT] - panel % mem.c[row + K.PANELS] * width))
        start = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        if mem.n[T.int64(Cell.REFRESH)] > 0:
            write(mem, row, first, count, start, low, high)
        else:
            measure(mem, row, first, count, start, low, high)

    return body


@T.inline
def settle(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """The hold test at `count` positions whose new values and norms stand in scratch."""
    channels = T.Bind(mem.c[row + K.CHANNELS])
    rms = T.Bind(mem.c[row + K.NORM])
    threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + rms])
    pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
    start = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    changed = T.alloc_buffer((1,), "int64")
    changed[0] = T.int64(0)
    for i in range(count):
        scratch = T.Bind(start + i * pitch)
        squares = T.alloc_buffer((LANES,), "float32")
        largest = T.alloc_buffer((LANES,), "float32")
        for v in T.vectorized(LANES):
            squares[v] = mem.a[scratch + pitch - 2 * LANES + v]
            largest[v] = mem.a[scratch + pitch - LANES + v]
        fold(squares, largest)
        # a sum that is not finite holds NaN or infinity, new or held, which a norm cannot tell from the other
        finite = T.meta_var(squares[0] <= T.float32(FLT_MAX))
        norm = T.Bind(T.Select(finite, T.Select(rms > 0, squares[0], largest[0]), T.float32(FLT_MAX)))
        if norm > threshold:
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL])
            for block in range(channels // LANES):
                for v in T.vectorized(LANES):
                    mem.a[out + block * LANES + v] = mem.a[scratch + block * LANES + v]
            tail = T.Bind(channels // LANES * LANES)
            for k in range(channels - tail):
                mem.a[out + tail + k] = mem.a[scratch + tail + k]
            mem.m[mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW] + x] = T.uint8(1)
            mem.m[mem.c[row + K.FLAGS] + y] = T.uint8(1)
            changed[0] = changed[0] + 1
    mem.n[mem.c[row + K.COUNT] + task] = mem.n[mem.c[row + K.COUNT] + task] + changed[0]
