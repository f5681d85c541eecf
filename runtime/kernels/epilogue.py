"""The end of a step: its pointwise arithmetic, and what a refresh does with it, panel by panel.

held = expr(core value, operands, parameters)
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.expr import Expr
from skipfx.runtime.kernels.arithmetic import evaluate
from skipfx.runtime.kernels.conv import channel
from skipfx.runtime.kernels.lanes import copy_vector, partly
from skipfx.runtime.kernels.memory import address
from skipfx.runtime.kernels.nontemporal import store_nontemporal
from skipfx.runtime.kernels.table import LANES, MASK, OPERAND_COLUMNS, SHIFT, Column

K = Column

Value = Callable[..., Any]


def value_of(expr: Expr, has_core: bool, broadcast: tuple[bool, ...], constant: tuple[bool, ...]) -> Value:
    """The arithmetic of one expression, of (memory, row, core's value, y, x, first channel, lane, start of the state).

    Args:
        expr: ("input", 0) is the core's value if there is a core; the operands follow.
        has_core: whether there is one.
        broadcast: per operand, whether it has one channel that serves all.
        constant: per operand, whether it is a constant, which all streams share.
    """

    def value(mem: Any, row: Any, core: Any, y: Any, x: Any, at: Any, lane: Any, state: Any = 0) -> Any:
        def leaf(found: Expr) -> Any:
            kind, index = found
            if kind == "channel":
                return mem.w[mem.c[row + K.PARAMETERS + index] + at + lane]
            if has_core and index == 0:
                return core
            number = index - int(has_core)
            column = row + K.OPERANDS + number * OPERAND_COLUMNS
            first = address(mem, column, y, x) + (0 if constant[number] else state)
            values = mem.w if constant[number] else mem.a
            return values[first] if broadcast[number] else values[first + at + lane]

        return evaluate(expr, leaf)

    return value


def to_map(value: Value, cut: bool, nontemporal: bool) -> Callable[..., None]:
    """The end of a convolution's tile on a refresh (`conv.End`): new values where they are held.

    Args:
        value: the arithmetic.
        cut: the last vector of a group's channels is not whole, and nothing may be written behind it.
        nontemporal: vectors are stored past the caches.
    """
    put = store_nontemporal if nontemporal else copy_vector

    @T.inline
    def whole(mem: Any, row: Any, y: Any, x: Any, out: Any, at: Any, sums: Any, p: Any, left: Any) -> None:
        new = T.alloc_buffer((LANES,), "float32")
        for v in T.vectorized(LANES):
            new[v] = value(mem, row, sums[p, v], y, x, at, v)
        put(mem.a, out + at, new, 0)

    @T.inline
    def part(mem: Any, row: Any, y: Any, x: Any, out: Any, at: Any, sums: Any, p: Any, left: Any) -> None:
        new = T.alloc_buffer((LANES,), "float32")
        for v in T.vectorized(LANES):
            new[v] = value(mem, row, sums[p, v], y, x, at, v)
        partly(mem.a, out + at, new, 0, left)

    def vectors(
        mem: Any, row: Any, y: Any, x: Any, out: Any, at: Any, sums: Any, p: Any, left: Any, end: Callable[..., None]
    ) -> None:
        for number, one in enumerate(sums):
            store = whole if number < len(sums) - 1 else end
            store(mem, row, y, x, out, at + number * LANES, one, p, left)

    @T.inline
    def every(
        mem: Any, row: Any, first: Any, at: Any, sums: Any, positions: Any, left: Any, along: Any, end: Any
    ) -> None:
        for p in T.unroll(positions):
            lead = T.meta_var(0 if along else p)  # others lie beside it: no address is multiplied out for each
            position = T.Bind(mem.q[first + lead])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(address(mem, row + K.OUT, y, x))
            beside = T.meta_var(p - lead)
            vectors(mem, row, y, x + beside, out + beside * mem.c[row + K.OUT + 2], at, sums, p, left, end)

    @T.inline
    def body(
        mem: Any, task: Any, row: Any, first: Any, done: Any, panel: Any, at: Any, sums: Any, positions: Any, along: Any
    ) -> None:
        end = T.Bind((panel // mem.c[row + K.PANELS] + 1) * mem.c[row + K.GROUP_OUT])
        left = T.Bind(end - at - (len(sums) - 1) * LANES)  # channels in the last vector
        if cut and left < LANES:  # outside of the loop over positions: inside, sums go through memory
            every(mem, row, first + done, at, sums, positions, left, along, part)
        else:
            every(mem, row, first + done, at, sums, positions, left, along, whole)

    return body


def epilogue(value: Value, nontemporal: bool) -> Callable[..., None]:
    """The body for the arithmetic of one expression, of sums in scratch; `nontemporal` as for `to_map`."""
    put = store_nontemporal if nontemporal else copy_vector

    @T.inline
    def write(mem: Any, row: Any, first: Any, count: Any, start: Any, low: Any, high: Any) -> None:
        """New values to where they are held."""
        pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
        whole = T.Bind((high - low + mem.c[row + K.SPARE]) // LANES)
        tail = T.Bind(low + whole * LANES)
        for i in range(count):
            position = T.Bind(mem.q[first + i])
            y = T.Bind(position >> SHIFT)
            x = T.Bind(position & MASK)
            out = T.Bind(address(mem, row + K.OUT, y, x))
            scratch = T.Bind(start + i * pitch)
            for block in range(whole):
                at = T.Bind(low + block * LANES)
                new = T.alloc_buffer((LANES,), "float32")
                for v in T.vectorized(LANES):
                    new[v] = value(mem, row, mem.a[scratch + at + v], y, x, at, v)
                put(mem.a, out + at, new, 0)
            if high > tail:
                rest = T.alloc_buffer((LANES,), "float32")
                for v in T.vectorized(LANES):
                    rest[v] = value(mem, row, mem.a[scratch + tail + v], y, x, tail, v)
                partly(mem.a, out + tail, rest, 0, high - tail)

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        low = T.Bind(channel(mem, row, panel))
        width = T.Bind(mem.c[row + K.BLOCKS] * LANES)
        high = T.Bind(low + T.min(width, mem.c[row + K.GROUP_OUT] - panel % mem.c[row + K.PANELS] * width))
        start = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        write(mem, row, first, count, start, low, high)

    return body
