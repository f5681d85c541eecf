"""Asks for memory before it is needed: what a frame leaves alone has long left the caches.

Active positions lie anywhere, so the processor cannot guess what is read next. While the first tiles of a chunk are
computed, what the others read and are compared with arrives.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.conv import offset
from skipfx.runtime.kernels.memory import address
from skipfx.runtime.kernels.table import LANES, MASK, OPERAND_COLUMNS, OPERAND_COUNT, SHIFT, Cell, Column

K = Column
READ, WRITE = 0, 1
KEEP, DATA = 3, 1  # in all caches; not instructions
LARGE = 1 << 20  # floats of a map


@T.inline
def ask(mem: Any, at: Any, purpose: Any) -> None:
    """Asks for the cache line of a float."""
    place = T.meta_var(T.address_of(mem.a[at]))
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", place, T.int32(purpose), T.int32(KEEP), T.int32(DATA)))


@T.inline
def fetch(mem: Any, first: Any, count: Any, purpose: Any) -> None:
    """Asks for the cache lines of `count` floats."""
    for line in range((count + LANES - 1) // LANES):
        ask(mem, first + line * LANES, purpose)


def leaves_caches(mem: Any, row: Any) -> Any:
    """Whether the map that is written is so large that a refresh, too, waits for it."""
    return mem.c[row + K.HEIGHT] * mem.c[row + K.WIDTH] * mem.c[row + K.CHANNELS] > LARGE


@T.inline
def approach(mem: Any, row: Any, first: Any, count: Any) -> None:
    """Asks for the operands and the held values of `count` positions, and for their windows if they lie anywhere."""
    channels = T.Bind(mem.c[row + K.CHANNELS])
    lines = T.Bind(T.Select(mem.n[T.int64(Cell.REFRESH)] > 0, T.int64(0), mem.c[row + K.WINDOW_LINES]))
    table = T.Bind(mem.c[row + K.WINDOW_TABLE])
    for i in range(count):
        position = T.Bind(mem.q[first + i])
        y = T.Bind(position >> SHIFT)
        x = T.Bind(position & MASK)
        window = T.Bind(mem.c[row + K.IN] + offset(mem, row, position))
        for line in range(lines):
            ask(mem, window + mem.c[table + line], READ)
        for operand in T.unroll(OPERAND_COUNT):
            column = T.meta_var(row + K.OPERANDS + operand * OPERAND_COLUMNS)
            if mem.c[column] > 0:
                fetch(mem, address(mem, column, y, x), channels, READ)
        held = T.Bind(address(mem, row + K.OUT, y, x))
        fetch(mem, held, channels, WRITE)
