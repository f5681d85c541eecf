"""Where the streams of a batch lie in the memory of a GPU, and what tells them apart in a kernel.

All streams take their steps in the same launches. The state of one lies behind that of the other in `a` and `m`; the
numbers in `n` lie side by side, number by number. Active lists are shared: a packed position also says of which stream
it is, so that a tile is filled up with positions of any streams, and one without a change costs nothing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tvm.script import tirx as T
from tvm.tirx import Buffer

from skipfx.runtime.kernels.memory import address
from skipfx.runtime.kernels.table import MASK, SHIFT, Cell, Column

K = Column


class Typed(NamedTuple):
    """Memory as elements of another type."""

    a: Buffer
    w: Buffer
    o: Buffer


class DeviceMemory(NamedTuple):
    """The buffers of `skipfx.runtime.kernels.table` without `s`, the arrays of the call, and how streams lie in them.

    Attributes:
        streams: how many there are.
        floats, bytes, numbers: of one stream, in a, m and n.
        views: of the types that a kernel asked for.
    """

    a: Buffer
    m: Buffer
    q: Buffer
    n: Buffer
    w: Buffer
    c: Buffer
    f: Buffer
    o: Buffer
    streams: Any
    floats: Any
    bytes: Any
    numbers: Any
    views: Mapping[str, Typed]


def stream_of(position: Any) -> Any:
    """The stream of a packed position."""
    return position >> (2 * SHIFT)


def line_of(position: Any) -> Any:
    """The row of a packed position."""
    return (position >> SHIFT) & MASK


def column_of(position: Any) -> Any:
    """The column of a packed position."""
    return position & MASK


def packed(stream: Any, y: Any, x: Any) -> Any:
    """A position of a stream."""
    return (stream << (2 * SHIFT)) | (y << SHIFT) | x


def cell(mem: Any, number: Any, stream: Any) -> Any:
    """Where a number of a stream stands in n."""
    return number * mem.streams + stream


def common(mem: Any, number: Cell) -> Any:
    """A number in n that serves all streams."""
    return mem.n[T.int64(number) * mem.streams]


def running(mem: Any, index: Any) -> Any:
    """The stream of a number below `common(mem, Cell.RUNNING)`: those that have a frame in this step."""
    return mem.n[T.int64(Cell.RUNS) * mem.streams + index]


def lines(mem: Any, height: Any) -> Any:
    """How many rows of a map there are in all streams that have a frame."""
    return common(mem, Cell.RUNNING) * height


def stream_at(mem: Any, item: Any, height: Any) -> Any:
    """The stream of one of these rows."""
    return running(mem, T.truncdiv(item, height))


def line_at(item: Any, height: Any) -> Any:
    """Which row of its stream it is."""
    return T.truncmod(item, height)


def listed(mem: Any, row: Any) -> Any:
    """Where the length of a row's list stands in n: behind the first stream's own share of it."""
    return (mem.c[row + K.LIST_COUNT] + 1) * mem.streams


def place(mem: Any, column: Any, position: Any) -> Any:
    """Where a packed position lies in a: see `address`."""
    return stream_of(position) * mem.floats + address(mem, column, line_of(position), column_of(position))


def offset(mem: Any, row: Any, position: Any) -> Any:
    """Where the window of a packed position starts, from the first position of the first stream's padded input."""
    y = line_of(position) * mem.c[row + K.STRIDE_H] * mem.c[row + K.IN_ROW]
    x = column_of(position) * mem.c[row + K.STRIDE_W] * mem.c[row + K.IN_PIXEL]
    return stream_of(position) * mem.floats + y + x


@T.inline
def mark(mem: Any, row: Any, position: Any) -> None:
    """Says that a position has changed in the map that a row writes, and that something has; nobody asks how much."""
    maps = T.Bind(stream_of(position) * mem.bytes)
    mem.m[maps + mem.c[row + K.MAP] + line_of(position) * mem.c[row + K.MAP_ROW] + column_of(position)] = T.uint8(1)
    mem.m[maps + mem.c[row + K.FLAGS] + line_of(position)] = T.uint8(1)
    mem.n[cell(mem, mem.c[row + K.COUNT], stream_of(position))] = T.int64(1)
