"""The end of a step on a GPU: see `skipfx.runtime.kernels.epilogue`, whose arithmetic and order of sums this keeps.

LANES threads share a position; each sums over the channels of its lane, and the lanes are folded as a tree.
"""

from collections.abc import Callable
from operator import add
from typing import Any, Final

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import cell, column_of, line_of, mark, place, stream_of
from skipfx.runtime.kernels.cuda.thread import fold, share, sync
from skipfx.runtime.kernels.epilogue import Value
from skipfx.runtime.kernels.table import FLT_MAX, LANES, POSITIONS, SIDE_BY_SIDE, THREADS, Cell, Column

K = Column
ROUNDS: Final = POSITIONS // SIDE_BY_SIDE  # of the largest tile


def epilogue(value: Value, positions: int) -> Callable[..., None]:
    """The body for one expression, whose arithmetic is `value`, at so many positions at most."""
    rounds = positions // SIDE_BY_SIDE

    @T.inline
    def measure(mem: Any, thread: Any, row: Any, first: Any, count: Any, start: Any, square: Any, large: Any) -> None:
        """Puts new values into the scratch, and the squares and sizes of their differences beside each other."""
        for i in range(rounds):
            item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
            square[i, thread] = T.float32(0)
            large[i, thread] = T.float32(0)
            if item < count:
                position = T.Bind(mem.q[first + item])
                y = T.Bind(line_of(position))
                x = T.Bind(column_of(position))
                state = T.Bind(stream_of(position) * mem.floats)
                out = T.Bind(place(mem, row + K.OUT, position))
                scratch = T.Bind(start + item * mem.c[row + K.SCRATCH_PITCH])
                for block in range(share(mem.c[row + K.CHANNELS], thread % LANES, LANES)):
                    channel = T.Bind(block * LANES + thread % LANES)
                    made = T.Bind(value(mem, row, mem.a[scratch + channel], y, x, channel, T.int64(0), state))
                    delta = T.Bind(made - mem.a[out + channel])
                    mem.a[scratch + channel] = made
                    square[i, thread] = square[i, thread] + delta * delta
                    large[i, thread] = T.max(large[i, thread], T.abs(delta))

    @T.inline
    def write(mem: Any, thread: Any, row: Any, first: Any, count: Any, start: Any, square: Any, large: Any) -> None:
        """Writes the values whose norm is above the threshold, and marks their positions."""
        rms = T.Bind(mem.c[row + K.NORM])
        for i in range(rounds):
            item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
            if item < count:
                total = T.Bind(square[i, thread // LANES * LANES])
                # a sum that is not finite holds NaN or infinity, new or held, which a norm cannot tell from the other
                norm = T.Bind(
                    T.Select(
                        total <= T.float32(FLT_MAX),
                        T.Select(rms > 0, total, large[i, thread // LANES * LANES]),
                        T.float32(FLT_MAX),
                    )
                )
                position = T.Bind(mem.q[first + item])
                fresh = T.Bind(mem.n[cell(mem, T.int64(Cell.REFRESH), stream_of(position))])
                if T.Or(fresh > 0, norm > mem.w[mem.c[row + K.THRESHOLD] + rms]):
                    out = T.Bind(place(mem, row + K.OUT, position))
                    scratch = T.Bind(start + item * mem.c[row + K.SCRATCH_PITCH])
                    for block in range(share(mem.c[row + K.CHANNELS], thread % LANES, LANES)):
                        mem.a[out + block * LANES + thread % LANES] = mem.a[scratch + block * LANES + thread % LANES]
                    if thread % LANES == 0:
                        mark(mem, row, position)

    @T.inline
    def body(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        square = T.alloc_buffer((rounds, THREADS), "float32", scope="shared")
        large = T.alloc_buffer((rounds, THREADS), "float32", scope="shared")
        sync()  # a thread reads what others made of the core, and writes over what others may still read
        measure(mem, thread, row, first, count, scratch, square, large)
        fold(thread, (square, add), (large, T.max))
        write(mem, thread, row, first, count, scratch, square, large)

    return body
