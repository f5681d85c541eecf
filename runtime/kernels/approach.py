"""Asks for memory before it is needed: what a frame leaves alone has long left the caches.

Active positions lie anywhere, so the processor cannot guess what is read next. While a register tile is computed, what
later ones read and what its own end is compared with arrives.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.memory import address, offset
from skipfx.runtime.kernels.table import LANES, MASK, OPERAND_COLUMNS, OPERAND_COUNT, SHIFT, Cell, Column

K = Column
READ, WRITE = 0, 1
KEEP, DATA = 3, 1  # in all caches; not instructions
AHEAD = 24  # positions between a window that is asked for and the one that is read
PAGE = 1024  # floats; across pages the processor does not guess, so weights are asked for that far ahead


@T.inline
def ask(memory: Any, at: Any, purpose: Any) -> None:
    """Asks for the cache line of a float."""
    place = T.meta_var(T.address_of(memory[at]))
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", place, T.int32(purpose), T.int32(KEEP), T.int32(DATA)))


@T.inline
def fetch(memory: Any, first: Any, count: Any, purpose: Any) -> None:
    """Asks for the cache lines of `count` floats."""
    for line in range((count + LANES - 1) // LANES):
        ask(memory, first + line * LANES, purpose)


def asks(mem: Any, row: Any) -> Any:
    """Whether memory is asked for ahead: on a sparse frame, and where a refresh, too, waits for what it writes."""
    return T.Or(mem.n[T.int64(Cell.REFRESH)] == 0, mem.c[row + K.WAITS] > 0)


@T.inline
def windows(mem: Any, row: Any, first: Any, count: Any) -> None:
    """Asks for the windows of `count` positions, if they lie anywhere."""
    lines = T.Bind(T.Select(mem.n[T.int64(Cell.REFRESH)] > 0, T.int64(0), mem.c[row + K.WINDOW_LINES]))
    table = T.Bind(mem.c[row + K.WINDOW_TABLE])
    if lines > 0:
        for i in range(count):
            window = T.Bind(mem.c[row + K.IN] + offset(mem, row, mem.q[first + i]))
            for line in range(lines):
                ask(mem.a, window + mem.c[table + line], READ)


@T.inline
def ends(mem: Any, row: Any, first: Any, count: Any, at: Any, width: Any) -> None:
    """Asks for the operands and the held values of `count` positions, `width` channels from `at` on."""
    for i in range(count):
        position = T.Bind(mem.q[first + i])
        y = T.Bind(position >> SHIFT)
        x = T.Bind(position & MASK)
        for operand in T.unroll(OPERAND_COUNT):
            column = T.meta_var(row + K.OPERANDS + operand * OPERAND_COLUMNS)
            if mem.c[column] > 0:
                fetch(mem.a, address(mem, column, y, x) + at, width, READ)
        fetch(mem.a, address(mem, row + K.OUT, y, x) + at, width, WRITE)


@T.inline
def approach(mem: Any, row: Any, first: Any, count: Any) -> None:
    """Before a chunk of positions: asks for what nothing is computed in front of."""
    if asks(mem, row):
        if mem.c[row + K.RUN] > 0:  # a convolution, which goes on with `ahead`
            windows(mem, row, first, T.min(count, T.int64(AHEAD)))
        else:
            ends(mem, row, first, count, T.int64(0), mem.c[row + K.CHANNELS])


@T.inline
def ahead(mem: Any, row: Any, first: Any, count: Any, done: Any, positions: Any, at: Any, width: Any) -> None:
    """Before a register tile of a chunk: asks for what later tiles read, and for what the end of this one needs."""
    if at == 0:
        windows(mem, row, first + done + AHEAD, T.min(T.int64(positions), count - done - AHEAD))
    ends(mem, row, first + done, T.int64(positions), at, width)
