"""The columns of a row that are about the end of its step: the arithmetic behind the core, and what becomes of it."""

import numpy as np

from skipfx.expr import leaves, size
from skipfx.numbering import number
from skipfx.plan import Compute, Floats, Plan, View
from skipfx.runtime.image import Alone, EpilogueSpec, Fused, Held
from skipfx.runtime.kernels.table import LANES, LARGE, OPERAND_COLUMNS, OPERAND_COUNT, VAST, Column
from skipfx.runtime.layout import Layout, Row
from skipfx.runtime.pack import pad_channels

K = Column
FEW = 4 * LANES  # channels of which all new values stay in registers
SIMPLE = 3  # operators of the end of a convolution, at most, that a refresh runs in the same kernel


class Ends:
    """The ends of a plan's steps.

    Attributes:
        epilogues, held, fused, alone: what the rows filled so far need, as in `Image`.
    """

    def __init__(self, plan: Plan, memory: Layout) -> None:
        self.buffers, self.memory = plan.buffers, memory
        self.epilogues: list[EpilogueSpec] = []
        self.held: list[Held] = []
        self.fused: list[Fused] = []
        self.alone: list[Alone] = []

    def fill(self, row: Row, step: Compute) -> None:
        """Fills the columns of a row that knows its core and what it writes."""
        epilogue = row[K.EPILOGUE] = number(self.epilogues, self._epilogue(row, step))
        few = step.out.channels if step.out.channels <= FEW else 0
        row[K.HOLD] = number(self.held, Held(epilogue, few, bool(row[K.NORM])))
        floats = int(row[K.HEIGHT] * row[K.WIDTH] * row[K.CHANNELS])
        nontemporal = floats >= VAST and self._is_whole(row)
        row[K.WAITS] = int(floats > LARGE and not nontemporal)
        row[K.FUSED] = -1
        # longer code for every position of a tile takes longer to fetch
        if row[K.RUN] and size(step.expr, [0] * (1 + OPERAND_COUNT)) <= SIMPLE:
            spare = row[K.SPARE] if row[K.GROUPS] == 1 else 0
            cut = bool(-row[K.GROUP_OUT] % LANES > spare)
            row[K.FUSED] = number(self.fused, Fused(int(row[K.CORE]), epilogue, cut, nontemporal))
        else:
            row[K.END] = number(self.alone, Alone(epilogue, nontemporal))

    @staticmethod
    def _is_whole(row: Row) -> bool:
        """Whether all that is written consists of whole vectors on cache lines of their own."""
        return all(row[column] % LANES == 0 for column in (K.OUT, K.OUT_ROW, K.OUT_PIXEL, K.CHANNELS, K.GROUP_OUT))

    def _epilogue(self, row: Row, step: Compute) -> EpilogueSpec:
        operands = [self._operand(operand) for operand in step.operands]
        broadcast = tuple(shape[2] == 1 and step.out.channels > 1 for shape, _ in operands)
        constant = tuple(not isinstance(operand, View) for operand in step.operands)
        for index, (shape, place) in enumerate(operands):
            pitches = [
                pitch * (extent == whole) for pitch, extent, whole in zip(place[1:], shape, step.size, strict=False)
            ]
            at = K.OPERANDS + index * OPERAND_COLUMNS
            row[at : at + OPERAND_COLUMNS] = [place[0], *pitches]
        for index in leaves(step.expr, "channel"):
            values = np.broadcast_to(step.channels[index], step.out.channels)
            row[K.PARAMETERS + index] = self.memory.w.add(pad_channels(values), LANES)
        return step.expr, step.core != "none", broadcast, constant

    def _operand(self, operand: View | Floats) -> tuple[tuple[int, ...], tuple[int, int, int]]:
        """Height, width and channels of an operand, and its place as `Layout.place` gives it; of a constant, in w."""
        if isinstance(operand, View):
            buffer = self.buffers[operand.buffer]
            return (buffer.height, buffer.width, operand.channels), self.memory.place(operand)
        _, width, channels = operand.shape
        return operand.shape, (self.memory.w.add(operand), width * channels, channels)
