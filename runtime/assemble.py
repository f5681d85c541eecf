"""Turns a plan into memory and rows: where every buffer lies, the packed weights, and a row of numbers per step.

What the columns mean stands in `skipfx.runtime.kernels.table`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skipfx.expr import leaves
from skipfx.plan import Compute, Emit, Gate, Ingest, Plan, Segment, Source, View
from skipfx.runtime.image import Call, EpilogueSpec, Image, LayerCell, pixel
from skipfx.runtime.kernels.table import (
    HEAVY,
    LANES,
    LINES,
    OPERAND_COLUMNS,
    OUTSIDE,
    POSITIONS,
    SCRATCH,
    TASKS,
    TILE,
    Column,
    Core,
    CoreSpec,
    Op,
    Tile,
)
from skipfx.runtime.layout import Layout, Row
from skipfx.runtime.pack import pack_conv, pack_depthwise, pad_channels

K = Column


class Assembler:
    """Assembles one plan; see `assemble`."""

    def __init__(self, plan: Plan, dense_above: float, tiles: Sequence[Tile]) -> None:
        self.plan, self.dense_above, self.tiles = plan, dense_above, tiles
        self.memory = Layout(plan)
        self.lists: dict[tuple[Any, ...], tuple[int, int]] = {}
        self.rows: list[Row] = []
        self.layers: list[LayerCell] = []
        self.cores: list[CoreSpec] = []
        self.epilogues: list[EpilogueSpec] = []

    def assemble(self) -> Image:
        """The whole plan."""
        memory = self.memory
        calls = [self._segment(index, segment) for index, segment in enumerate(self.plan.segments)]
        spots = memory.positions(TASKS * memory.spots)
        for row in self.rows:
            row[K.SPOTS], row[K.SPOTS_SIZE] = spots, memory.spots
            row[K.SCRATCH], row[K.SCRATCH_SIZE], row[K.LINE] = memory.a_size, memory.scratch, memory.line
        begin = memory.c.add(np.concatenate(self.rows))
        return Image(
            sizes=(memory.a_size, memory.m_size, 0, max(1, memory.q_size), memory.n_size),
            per_task=(memory.scratch, LINES * memory.line),
            held_bytes=sum(4 * b.height * b.width * b.channels for b in self.plan.buffers),
            w=memory.w.joined(),
            c=memory.c.joined(),
            calls=tuple(replace(call, begin=call.begin + begin) for call in calls),
            layers=tuple(self.layers),
            cores=tuple(self.cores),
            epilogues=tuple(self.epilogues),
        )

    def _segment(self, index: int, segment: Segment) -> Call:
        first = len(self.rows)
        if index == 0:
            self._clear()
        in_at = self._offsets([self._ingest_size(segment, i) for i in range(len(segment.arrays_in))])
        out_at = self._offsets([int(np.prod(shape)) for shape in segment.arrays_out])
        self._ingest([step for step in segment.steps if isinstance(step, Ingest)], in_at)
        changed: list[int] = []
        for step in segment.steps:
            if isinstance(step, Compute):
                self._compute(step)
            elif isinstance(step, Emit):
                changed += self._emit(step, out_at)
        begin = first * int(K.NUMBERS)
        return Call(begin, len(self.rows) - first, in_at[-1], out_at[-1], tuple(changed))

    @staticmethod
    def _offsets(sizes: list[int]) -> list[int]:
        return [0, *np.cumsum(sizes).tolist()]

    def _ingest_size(self, segment: Segment, array: int) -> int:
        view = next(step.out for step in segment.steps if isinstance(step, Ingest) and step.array == array)
        buffer = self.plan.buffers[view.buffer]
        return buffer.height * buffer.width * view.channels

    def _row(self, op: Op) -> Row:
        row = np.zeros(int(K.NUMBERS), np.int64)
        row[K.OP] = op
        self.rows.append(row)
        return row

    def _clear(self) -> None:
        row = self._row(Op.CLEAR)
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.memory.sources((Source(tuple(range(len(self.plan.maps)))),))

    def _ingest(self, steps: list[Ingest], in_at: list[int]) -> None:
        """Compare all arrays before any of them is written."""
        rows = []
        for step in steps:
            buffer = self.plan.buffers[step.out.buffer]
            row = np.zeros(int(K.NUMBERS), np.int64)
            self._writes(row, step.out, step.map, step.gate)
            row[K.ARRAY] = in_at[step.array]
            row[K.MARKS] = self.memory.bytes(buffer.height * (buffer.width + 1))
            row[K.FINITE] = int(step.is_frame)
            share = self.dense_above if step.is_frame else 1.0
            row[K.DENSE_ABOVE] = int(share * buffer.height * buffer.width)
            self.memory.need_scratch(buffer.width)
            self.memory.need_line(buffer.width + step.gate.dilation)
            self.memory.need_spots(buffer.width)
            rows.append(row)
        for op in (Op.COMPARE, Op.DILATE, Op.DECIDE, Op.COMMIT):
            for row in rows:
                copy = self._row(op)
                copy[K.OP + 1 :] = row[K.OP + 1 :]

    def _writes(self, row: Row, view: View, change: int, gate: Gate) -> None:
        """The columns about what a step writes."""
        row[K.MAP : K.COUNT + 1] = self.memory.change_map(change)
        row[K.OUT], row[K.OUT_ROW], row[K.OUT_PIXEL] = self.memory.place(view)
        row[K.CHANNELS], row[K.SPARE] = view.channels, self.memory.spare(view)
        row[K.THRESHOLD] = self.memory.w.add([gate.threshold, gate.threshold**2 * view.channels])
        row[K.NORM] = int(gate.norm == "rms" and gate.threshold > 0)
        row[K.DILATION] = gate.dilation

    def _compute(self, step: Compute) -> None:
        list_at, counts = self._list(step)
        row = self._row(Op.COMPUTE)
        self._writes(row, step.out, step.map, step.gate)
        row[K.LIST], row[K.LIST_COUNT] = list_at, counts
        self._core(row, step)
        self._epilogue(row, step)
        self._scratch(row, 0 if step.weight is None else step.weight.size)
        if step.macs:
            self.layers.append(LayerCell(step.name, list_at, counts, step.macs, *step.size))

    def _scratch(self, row: Row, weights: int) -> None:
        """As many tiles at a time as fit; more where the weights are so many that they should serve longer."""
        groups, group_out, panels, blocks = (int(row[k]) for k in (K.GROUPS, K.GROUP_OUT, K.PANELS, K.BLOCKS))
        pitch = (groups - 1) * group_out + (panels * blocks + 1) * LANES
        tiles = max(1, SCRATCH * (4 if weights > HEAVY else 1) // (pitch * TILE))
        row[K.SCRATCH_PITCH], row[K.CHUNK] = pitch, tiles
        self.memory.need_scratch(pitch * max(TILE * tiles, POSITIONS))
        self.memory.need_spots(TILE * tiles)

    def _core(self, row: Row, step: Compute) -> None:
        core = Core[step.core.upper()]
        row[K.GROUPS], row[K.GROUP_OUT], row[K.PANELS] = 1, step.out.channels, 1
        row[K.BLOCKS] = -(-step.out.channels // LANES)
        row[K.CORE] = -1
        if step.source is None:
            return
        buffer = self.plan.buffers[step.source.buffer]
        window = step.active[0]
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
        tile = self._tile(step) if core is Core.CONV else None
        row[K.CORE] = self._number(core, tile)
        if core is Core.RESIZE:
            row[K.TABLE_H], row[K.TABLE_W] = (self.memory.c.add(table) for table in (window.rows, window.columns))
            row[K.TAPS_H], row[K.TAPS_W] = len(window.rows[0]), len(window.columns[0])
            row[K.WEIGHT], row[K.BIAS] = (self.memory.w.add(taps) for taps in step.taps)
        elif step.tables:
            self._tables(row, step)
        elif step.weight is not None:
            merge = window.dilation[1] == 1 and step.source.channels == pixel(buffer)
            self._weights(row, step, tile, merge)

    def _number(self, core: Core, tile: Tile | None) -> int:
        if (core, tile) not in self.cores:
            self.cores.append((core, tile))
        return self.cores.index((core, tile))

    def _tile(self, step: Compute) -> Tile:
        """The widest tile whose panels the output channels of a group fill."""
        vectors = -(-step.out.channels // step.groups // LANES)
        return max((tile for tile in self.tiles if vectors % tile.vectors == 0), key=lambda tile: tile.vectors)

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
        if tile is None:
            row[K.WEIGHT] = self.memory.w.add(pack_depthwise(step.weight), LANES)
            row[K.BIAS] = self.memory.w.add(pad_channels(bias), LANES)
            return
        weight, packed_bias = pack_conv(step.weight, bias, step.groups, tile.vectors)
        row[K.WEIGHT] = self.memory.w.add(weight, LANES)
        row[K.BIAS] = self.memory.w.add(packed_bias, LANES)
        row[K.GROUPS], row[K.GROUP_IN], row[K.GROUP_OUT] = step.groups, per_group, out // step.groups
        row[K.BLOCKS], row[K.PANELS] = tile.vectors, -(-(out // step.groups) // LANES) // tile.vectors
        row[K.RUN] = per_group
        if merge and step.groups == 1:
            row[K.RUN], row[K.KERNEL_W] = per_group * row[K.KERNEL_W], 1

    def _epilogue(self, row: Row, step: Compute) -> None:
        broadcast = tuple(view.channels == 1 and step.out.channels > 1 for view in step.operands)
        spec = (step.expr, step.core != "none", broadcast)
        if spec not in self.epilogues:
            self.epilogues.append(spec)
        row[K.EPILOGUE] = self.epilogues.index(spec)
        for index, view in enumerate(step.operands):
            buffer = self.plan.buffers[view.buffer]
            columns = np.array(self.memory.place(view), np.int64)
            for axis, extent in enumerate((buffer.height, buffer.width)):
                columns[1 + axis] *= extent == step.size[axis]
            at = K.OPERANDS + index * OPERAND_COLUMNS
            row[at : at + OPERAND_COLUMNS] = columns
        for index in leaves(step.expr, "channel"):
            values = np.broadcast_to(step.channels[index], step.out.channels)
            row[K.PARAMETERS + index] = self.memory.w.add(pad_channels(values), LANES)

    def _list(self, step: Compute) -> tuple[int, int]:
        """The active list of a step; steps with the same sources share it."""
        key = (step.active, step.size)
        if key in self.lists:
            return self.lists[key]
        height, width = step.size
        row = self._row(Op.LIST)
        row[K.HEIGHT], row[K.WIDTH] = height, width
        row[K.LIST] = self.memory.positions(height * width + (TASKS + 1) * (TILE + 2))
        row[K.LIST_COUNT] = self.memory.cells()
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.memory.sources(step.active)
        for source in step.active:
            widest = max(self.plan.buffers[self.plan.maps[change]].width for change in source.maps)
            self.memory.need_line(max((width + 1) * source.stride[1] + source.kernel[1] * source.dilation[1], widest))
        self.lists[key] = (int(row[K.LIST]), int(row[K.LIST_COUNT]))
        return self.lists[key]

    def _emit(self, step: Emit, out_at: list[int]) -> list[int]:
        """Returns the cells that count the changes of what is emitted."""
        view, buffer = step.view, self.plan.buffers[step.view.buffer]
        row = self._row(Op.EMIT)
        row[K.HEIGHT], row[K.WIDTH], row[K.CHANNELS] = buffer.height, buffer.width, view.channels
        row[K.IN], row[K.IN_ROW], row[K.IN_PIXEL] = self.memory.place(view)
        row[K.ARRAY] = out_at[step.array]
        row[K.DIRTY] = self.memory.bytes(buffer.height * (buffer.width + 1))
        self.memory.need_spots(buffer.width)
        self.memory.need_line(buffer.width)
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.memory.sources((Source(view.maps),))
        return [self.memory.count_at[change] for change in view.maps]


def assemble(plan: Plan, dense_above: float = 1.0, tiles: Sequence[Tile] = (Tile(6, 1),)) -> Image:
    """Lays out a plan.

    Args:
        plan: what lowering made.
        dense_above: share of a frame's pixels that may change before the frame is a refresh.
        tiles: the register tiles that suit the target, one of them with a single vector.
    """
    return Assembler(plan, dense_above, tiles).assemble()
