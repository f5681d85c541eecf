"""The columns of a row that are about the core of its step: where it reads, its tile, its packed weights or tables."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from skipfx.numbering import number
from skipfx.plan import Compute, Plan
from skipfx.runtime.image import pixel
from skipfx.runtime.kernels.table import FAR, LANES, OUTSIDE, TOGETHER, Column, Core, CoreSpec, Tile, shape_class
from skipfx.runtime.layout import Layout, Row
from skipfx.runtime.pack import pack_chunks, pack_conv, pack_depthwise, pack_dot, pad_channels

K = Column
SHARED = 7  # columns of a window whose weights stay in registers
FOLD = 8  # multiply-adds of vectors in whose time one is folded
WINDOW = 40  # lines of a window that are asked for; of a larger one the first would be gone before they are read


class Cores:
    """The cores of a plan.

    Attributes:
        specs: the kernels that the rows filled so far need, in the order of their numbers.
    """

    def __init__(self, plan: Plan, memory: Layout, tiles: Sequence[Tile]) -> None:
        self.buffers, self.memory, self.tiles = plan.buffers, memory, tiles
        self.specs: list[CoreSpec] = []

    def fill(self, row: Row, step: Compute) -> None:
        """Fills the columns of a step's row; packs its weights and tables into the constants."""
        core = Core[step.core.upper()]
        row[K.GROUPS], row[K.GROUP_OUT], row[K.PANELS] = 1, step.out.channels, 1
        row[K.BLOCKS] = -(-step.out.channels // LANES)
        row[K.CORE] = -1
        if step.source is None:
            return
        buffer = self.buffers[step.source.buffer]
        window = step.window
        assert window is not None
        (top, left) = window.padding if core in (Core.CONV, Core.DEPTHWISE) else (0, 0)
        row[K.IN], row[K.IN_ROW], row[K.IN_PIXEL] = self.memory.place(step.source, top, left)
        row[K.IN_HEIGHT], row[K.IN_WIDTH] = buffer.height, buffer.width
        row[K.KERNEL_H], row[K.KERNEL_W] = window.kernel
        row[K.STRIDE_H], row[K.STRIDE_W] = window.stride
        row[K.PAD_H], row[K.PAD_W] = window.padding
        row[K.DILATION_H], row[K.DILATION_W] = window.dilation
        row[K.STEP_H] = row[K.IN_ROW] * window.dilation[0]
        row[K.STEP_W] = row[K.IN_PIXEL] * window.dilation[1]
        row[K.COUNT_PAD] = int(step.count_pad)
        if core >= Core.MOVE:
            row[K.WEIGHT] = self.memory.w.add([step.number])
            row[K.GROUP_IN], row[K.BLOCKS] = step.source.channels, -(-step.source.channels // LANES)
        tile = self._tile(step) if core in (Core.CONV, Core.DEPTHWISE) else None
        kernel = Core.DOT if tile is not None and self._is_dot(step, tile) else core
        row[K.CORE] = number(self.specs, (kernel, tile))
        if core is Core.RESIZE:
            row[K.TABLE_H], row[K.TABLE_W] = (self.memory.c.add(table) for table in (window.rows, window.columns))
            row[K.TAPS_H], row[K.TAPS_W] = len(window.rows[0]), len(window.columns[0])
            row[K.WEIGHT], row[K.BIAS] = (self.memory.w.add(taps) for taps in step.taps)
        elif step.tables:
            self._tables(row, step)
        elif step.weight is not None:
            merge = window.dilation[1] == 1 and step.source.channels == pixel(buffer)
            self._weights(row, step, tile, merge)
            lines = window_lines(row)
            if len(lines) <= WINDOW:
                row[K.WINDOW_LINES], row[K.WINDOW_TABLE] = len(lines), self.memory.c.add(lines)

    def _tile(self, step: Compute) -> Tile:
        """The largest tile whose panels the output channels of a group fill.

        The positions of a tile share weights; with one filter per channel each sum reads an input of its own, too, and
        more positions than hide the latency only make the code longer.
        """
        groups = step.groups if step.core == "conv" else 1
        vectors = -(-step.out.channels // groups // LANES)
        fitting = [tile for tile in self.tiles if vectors % tile.vectors == 0]
        tile = max(fitting, key=lambda tile: tile.positions * tile.vectors)
        if tile.precision is None and step.core == "depthwise":
            assert step.window is not None
            columns, stride = step.window.kernel[1], step.window.stride[1]
            shared = stride < columns <= SHARED and step.window.dilation[1] == 1
            return tile._replace(positions=tile.half or tile.positions, columns=(columns, stride) if shared else None)
        if tile.precision is not None and step.core == "conv":
            return tile._replace(shape=shape_class(vectors, step.size[0] * step.size[1]))
        return tile

    @staticmethod
    def _is_dot(step: Compute, tile: Tile) -> bool:
        """Whether vectors along the input channels take less than half of the time of one along the output channels."""
        if step.core != "conv" or step.groups > 1 or step.weight is None or tile.precision is not None:
            return False
        out, taken = step.weight.shape[:2]
        floats = step.weight[0].size
        return bool(taken % LANES == 0 and 2 * out * (floats // LANES + FOLD) < floats)

    def _tables(self, row: Row, step: Compute) -> None:
        pitches = np.array([row[K.IN_ROW], row[K.IN_PIXEL], 1])
        rows, columns, channels = (
            [OUTSIDE if place is None else int(pitches @ place) for place in table] for table in step.tables
        )
        row[K.TABLE_H], row[K.TABLE_W] = self.memory.c.add(rows), self.memory.c.add(columns)
        row[K.BLOCKS] = -(-len(channels) // LANES)
        row[K.TABLE_C] = self.memory.c.add([*channels, *channels[-1:] * LANES])

    def _weights(self, row: Row, step: Compute, tile: Tile | None, merge: bool) -> None:
        assert step.weight is not None
        out, per_group = step.weight.shape[:2]
        bias = np.zeros(out, np.float32) if step.bias is None else step.bias
        if step.core == "depthwise":
            row[K.WEIGHT] = self.memory.w.add(pack_depthwise(step.weight), LANES)
            row[K.BIAS] = self.memory.w.add(pad_channels(bias), LANES)
            row[K.RUN] = out
            far = row[K.IN_ROW] * row[K.IN_HEIGHT] >= FAR
            row[K.FRESH] = row[K.KERNEL_H] - row[K.STRIDE_H] if far else row[K.KERNEL_H]
            return
        assert tile is not None
        weight, packed_bias = pack_conv(step.weight, bias, step.groups, tile.vectors)
        row[K.BIAS] = self.memory.w.add(packed_bias, LANES)
        row[K.GROUPS], row[K.GROUP_IN], row[K.GROUP_OUT] = step.groups, per_group, out // step.groups
        row[K.BLOCKS], row[K.PANELS] = tile.vectors, -(-(out // step.groups) // LANES) // tile.vectors
        row[K.RUN] = per_group
        if merge and step.groups == 1:
            row[K.RUN], row[K.KERNEL_W] = per_group * row[K.KERNEL_W], 1
        read = [row[k] for k in (K.IN, K.IN_ROW, K.IN_PIXEL, K.GROUP_IN, K.RUN)]
        row[K.WIDE] = int(all(count % TOGETHER == 0 for count in read))
        if tile.precision is not None:
            weight = pack_chunks(weight, int(row[K.RUN]), tile.precision)
        if self._is_dot(step, tile):
            weight = pack_dot(step.weight)
        row[K.WEIGHT] = self.memory.w.add(weight, LANES)


def window_lines(row: Row) -> list[int]:
    """Where the vectors start that cover a convolution's window, in floats from its first."""
    found: list[int] = []
    for y, x in product(range(row[K.KERNEL_H]), range(row[K.KERNEL_W])):
        start = y * row[K.STEP_H] + x * row[K.STEP_W]
        end = int(start + row[K.RUN])
        first = int(start) if not found else max(int(start), found[-1] + LANES)
        found += range(first, end, LANES)
    return found
