"""The rows of dense islands on a GPU: a kernel with a table of where its tensors lie, and arrays given out whole."""

from math import prod

import numpy as np

from skipfx.plan import Dense, Give, Source
from skipfx.runtime.kernels.table import Column
from skipfx.runtime.layout import Layout, Row

K = Column


def fill_dense(step: Dense, row: Row, memory: Layout, kernel: int) -> None:
    """What a row says of a kernel, which is one of the module's by its number."""
    row[K.CORE] = kernel
    row[K.TABLE_H] = memory.c.add([memory.element(tensor) for tensor in step.tensors])
    row[K.SOURCES], row[K.SOURCE_COUNT] = memory.sources((Source(step.maps),))


def fill_give(step: Give, row: Row, memory: Layout, shape: tuple[int, ...], array: int) -> None:
    """What a row says of an array: its first float in a and in what is given out, and its bytes."""
    size = prod(shape) * np.dtype(step.room.dtype).itemsize
    row[K.IN], row[K.ARRAY] = memory.room_at[step.room.index], array
    row[K.CHANNELS], row[K.WIDE] = size, int(size % 4 == 0)
    row[K.DIRTY] = memory.bytes(1)
    row[K.SOURCES], row[K.SOURCE_COUNT] = memory.sources((Source(step.maps),))
