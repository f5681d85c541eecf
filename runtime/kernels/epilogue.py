"""The end of a step, at each position: pointwise arithmetic, the hold test, the write and the changed bit.

y'  = expr(core value, operands, parameters)            over blocks of LANES channels, into scratch
N   = norm over the channels of y' - held
N > tau or refresh:  held = y', the position is changed
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.expr import Expr
from skipfx.runtime.kernels.arithmetic import evaluate
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


def epilogue(expr: Expr, has_core: bool, broadcast: tuple[bool, ...]) -> Callable[..., None]:
    """The body for one expression.

    Args:
        expr: ("input", 0) is the core's value if there is a core; the operands follow.
        has_core: whether there is one.
        broadcast: per operand, whether it has one channel that serves all.
    """

    def value(mem: Any, row: Any, scratch: Any, y: Any, x: Any, channel: Any, lane: Any) -> Any:
        def leaf(found: Expr) -> Any:
            kind, index = found
            if kind == "channel":
                return mem.w[mem.c[row + K.PARAMETERS + index] + channel + lane]
            if has_core and index == 0:
                return mem.a[scratch + channel + lane]
            number = index - int(has_core)
            column = row + K.OPERANDS + number * OPERAND_COLUMNS
            at = mem.c[column] + y * mem.c[column + 1] + x * mem.c[column + 2]
            return mem.a[at] if broadcast[number] else mem.a[at + channel + lane]

        return evaluate(expr, leaf)

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any) -> None:
        channels = T.Bind(mem.c[row + K.CHANNELS])
        threshold = T.Bind(mem.c[row + K.THRESHOLD])
        rms = T.Bind(mem.c[row + K.NORM])
        fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])
        pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
        start = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        changed = T.alloc_buffer((1,), "int64")
        changed[0] = T.int64(0)
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL])
            scratch = T.Bind(start + i * pitch)
            squares = T.alloc_buffer((LANES,), "float32")
            largest = T.alloc_buffer((LANES,), "float32")
            for v in T.vectorized(LANES):
                squares[v] = T.float32(0)
                largest[v] = T.float32(0)
            for block in range((channels + LANES - 1) // LANES):
                new = T.alloc_buffer((LANES,), "float32")
                delta = T.alloc_buffer((LANES,), "float32")
                for v in T.vectorized(LANES):
                    new[v] = value(mem, row, scratch, y, x, block * LANES, v)
                for v in T.vectorized(LANES):
                    delta[v] = T.Select(
                        block * LANES + v < channels, new[v] - mem.a[out + block * LANES + v], T.float32(0)
                    )
                for v in T.vectorized(LANES):
                    mem.a[scratch + block * LANES + v] = new[v]
                    squares[v] = squares[v] + delta[v] * delta[v]
                    largest[v] = T.max(largest[v], T.abs(delta[v]))
            fold(squares, largest)
            # a sum that is not finite holds NaN or infinity, new or held, which a norm cannot tell from the other
            finite = T.meta_var(squares[0] <= T.float32(FLT_MAX))
            norm = T.Bind(T.Select(finite, T.Select(rms > 0, squares[0], largest[0]), T.float32(FLT_MAX)))
            if T.Or(fresh > 0, norm > mem.w[threshold + rms]):
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

    return body
