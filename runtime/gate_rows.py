"""The columns of the rows that a gate on a convolution takes; their lists are filled in already."""

from functools import singledispatch

from skipfx.plan import Follow, GateStep, Open, Score, Source, View, Weigh
from skipfx.runtime.kernels.table import LANES, OPERAND_COLUMNS, Column
from skipfx.runtime.layout import Layout, Row
from skipfx.runtime.pack import pack_weigh

K = Column


@singledispatch
def fill(step: GateStep, row: Row, memory: Layout) -> None:
    """Fills the columns of a step's row; packs its weights into the constants."""
    raise TypeError(type(step))


@fill.register
def _weigh(step: Weigh, row: Row, memory: Layout) -> None:
    row[K.HEIGHT], row[K.WIDTH] = step.size
    row[K.IN : K.IN_PIXEL + 1] = memory.place(step.source)
    row[K.REFERENCE : K.REFERENCE_PIXEL + 1] = memory.place(step.reference)
    row[K.OUT : K.OUT_PIXEL + 1] = memory.place(step.out)
    row[K.RUN], row[K.CHANNELS] = step.source.channels, step.out.channels
    row[K.WEIGHT] = memory.w.add(pack_weigh(step.weight), LANES)


@fill.register
def _score(step: Score, row: Row, memory: Layout) -> None:
    window = step.window
    _writes(row, step.out, step.map, memory)
    row[K.IN], row[K.IN_ROW], row[K.IN_PIXEL] = memory.place(step.source, *window.padding)
    row[K.KERNEL_H], row[K.KERNEL_W] = window.kernel
    row[K.STRIDE_H], row[K.STRIDE_W] = window.stride
    row[K.STEP_H], row[K.STEP_W] = row[K.IN_ROW] * window.dilation[0], row[K.IN_PIXEL] * window.dilation[1]
    row[K.OPERANDS : K.OPERANDS + OPERAND_COLUMNS] = memory.place(step.operand)
    row[K.WEIGHT] = memory.w.add([step.sign])


@fill.register
def _open(step: Open, row: Row, memory: Layout) -> None:
    _writes(row, step.scores, step.map, memory)
    row[K.SOURCES], row[K.SOURCE_COUNT] = memory.sources((Source(step.scores.maps),))
    row[K.THRESHOLD], row[K.BLOCK] = memory.w.add([step.limit]), step.block


@fill.register
def _follow(step: Follow, row: Row, memory: Layout) -> None:
    _writes(row, step.out, step.map, memory)
    row[K.IN : K.IN_PIXEL + 1] = memory.place(step.source)
    row[K.REFERENCE : K.REFERENCE_PIXEL + 1] = memory.place(step.weighed)
    row[K.CHANNELS], row[K.RUN], row[K.SPARE] = step.out.channels, step.weighed.channels, memory.spare(step.out)


def _writes(row: Row, view: View, change: int, memory: Layout) -> None:
    """The columns about the map that a step writes."""
    row[K.MAP : K.COUNT + 1] = memory.change_map(change)
    row[K.OUT : K.OUT_PIXEL + 1] = memory.place(view)
