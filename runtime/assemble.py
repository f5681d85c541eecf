"""Turns a plan into memory and rows: where every buffer lies, the packed weights, and a row of numbers per step.

What the columns mean stands in `skipfx.runtime.kernels.table`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipfx.expr import leaves
from skipfx.plan import Compute, Emit, Gate, Ingest, Plan, Segment, Source, View
from skipfx.runtime.image import Call, EpilogueSpec, Image, LayerCell, origin, pitch, positions
from skipfx.runtime.kernels.table import (
    LANES,
    OPERAND_COLUMNS,
    SCRATCH,
    TASKS,
    TILE,
    Cell,
    Column,
    Core,
    Op,
    SourceColumn,
)
from skipfx.runtime.pack import pack_conv, pack_depthwise, pad_channels

K = Column
S = SourceColumn
Row = NDArray[np.int64]


@dataclass
class _Pool:
    """Constants of one type, laid end to end."""

    parts: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0

    def add(self, values: Any, dtype: type, align: int = 1) -> int:
        array: NDArray[Any] = np.ascontiguousarray(values, dtype).reshape(-1)
        pad = -self.size % align
        if pad:
            self.parts.append(np.zeros(pad, dtype))
        start = self.size + pad
        self.parts.append(array)
        self.size = start + array.size
        return start


class Assembler:
    """Assembles one plan; see `assemble`."""

    def __init__(self, plan: Plan, dense_above: float) -> None:
        self.plan, self.dense_above = plan, dense_above
        self.w, self.c = _Pool(), _Pool()
        self.a_size = self.m_size = self.q_size = 0
        self.n_size = int(Cell.FIRST_COUNT)
        self.line = 0
        self.lists: dict[tuple[Any, ...], tuple[int, int]] = {}
        self.rows: list[Row] = []
        self.layers: list[LayerCell] = []
        self.cores: list[Core] = []
        self.epilogues: list[EpilogueSpec] = []
        self.buffer_at = [self._floats(positions(buffer) * buffer.channels) for buffer in plan.buffers]
        self.map_at = [self._bytes(positions(plan.buffers[index])) for index in plan.maps]
        self.flags_at = [self._bytes(plan.buffers[index].height) for index in plan.maps]
        self.count_at = [self._cells(TASKS) for _ in plan.maps]
        self.scratch = 0

    def assemble(self) -> Image:
        """The whole plan."""
        calls = [self._segment(index, segment) for index, segment in enumerate(self.plan.segments)]
        scratch = self._place_scratch()
        begin = self.c.add(np.concatenate(self.rows), np.int64)
        shifted = [Call(call.begin + begin, call.rows, call.f_size, call.o_size, call.changed) for call in calls]
        sizes = (self.a_size + LANES, self.m_size, 0, max(1, self.q_size), self.n_size)
        held = sum(4 * b.height * b.width * b.channels for b in self.plan.buffers)
        w, c = (np.concatenate([*pool.parts, np.zeros(LANES, pool.parts[0].dtype)]) for pool in (self.w, self.c))
        return Image(
            sizes,
            (scratch, 2 * self.line),
            held,
            w,
            c,
            tuple(shifted),
            tuple(self.layers),
            tuple(sorted(set(self.cores))),
            tuple(self.epilogues),
        )

    def _floats(self, count: int) -> int:
        start = self.a_size
        self.a_size += -(-count // LANES) * LANES
        return start

    def _bytes(self, count: int) -> int:
        start = self.m_size
        self.m_size += -(-count // 64) * 64
        return start

    def _cells(self, count: int) -> int:
        start = self.n_size
        self.n_size += count
        return start

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
        sources = np.zeros((len(self.plan.maps), int(S.NUMBERS)), np.int64)
        for index, source in enumerate(sources):
            buffer = self.plan.buffers[self.plan.maps[index]]
            source[S.MAP] = self.map_at[index] + origin(buffer)
            source[S.MAP_ROW], source[S.HEIGHT] = pitch(buffer), buffer.height
            source[S.FLAGS], source[S.COUNT] = self.flags_at[index], self.count_at[index]
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.c.add(sources, np.int64), len(sources)

    def _ingest(self, steps: list[Ingest], in_at: list[int]) -> None:
        """Compare all arrays before any of them is written."""
        rows = []
        for step in steps:
            buffer = self.plan.buffers[step.out.buffer]
            row = np.zeros(int(K.NUMBERS), np.int64)
            self._writes(row, step.out, step.map, step.gate)
            row[K.ARRAY] = in_at[step.array]
            row[K.PLANE] = self._floats(buffer.height * buffer.width * step.out.channels)
            row[K.MARKS] = self._bytes(buffer.height * (buffer.width + 1))
            row[K.FINITE] = int(step.is_frame)
            share = self.dense_above if step.is_frame else 1.0
            row[K.DENSE_ABOVE] = int(share * buffer.height * buffer.width)
            self.scratch = max(self.scratch, 2 * buffer.width)
            self.line = max(self.line, buffer.width + step.gate.dilation + 64)
            rows.append(row)
        for op in (Op.COMPARE, Op.DILATE, Op.DECIDE, Op.COMMIT):
            for row in rows:
                copy = self._row(op)
                copy[K.OP + 1 :] = row[K.OP + 1 :]

    def _writes(self, row: Row, view: View, change: int, gate: Gate) -> None:
        """The columns about what a step writes."""
        buffer = self.plan.buffers[view.buffer]
        row[K.MAP], row[K.MAP_ROW] = self.map_at[change] + origin(buffer), pitch(buffer)
        row[K.HEIGHT], row[K.WIDTH] = buffer.height, buffer.width
        row[K.FLAGS], row[K.COUNT] = self.flags_at[change], self.count_at[change]
        row[K.OUT], row[K.OUT_ROW], row[K.OUT_PIXEL] = self._place(view)
        row[K.CHANNELS] = view.channels
        row[K.THRESHOLD] = self.w.add([gate.threshold, gate.threshold**2 * view.channels], np.float32)
        row[K.NORM] = int(gate.norm == "rms" and gate.threshold > 0)
        row[K.DILATION] = gate.dilation

    def _place(self, view: View, top: int = 0, left: int = 0) -> tuple[int, int, int]:
        """First float of the picture (or of `top`, `left` outside it), floats per row, floats per position."""
        buffer = self.plan.buffers[view.buffer]
        first = origin(buffer) - top * pitch(buffer) - left
        start = self.buffer_at[view.buffer] + first * buffer.channels + view.channel
        return start, pitch(buffer) * buffer.channels, buffer.channels

    def _compute(self, step: Compute) -> None:
        list_at, counts = self._list(step)
        row = self._row(Op.COMPUTE)
        self._writes(row, step.out, step.map, step.gate)
        row[K.LIST], row[K.LIST_COUNT] = list_at, counts
        padded = -(-step.out.channels // LANES) * LANES + LANES
        tiles = max(1, SCRATCH // (padded * TILE))
        row[K.SCRATCH_PITCH], row[K.CHUNK] = padded, tiles
        self.scratch = max(self.scratch, padded * TILE * tiles)
        self._core(row, step)
        self._epilogue(row, step)
        if step.macs:
            self.layers.append(LayerCell(step.name, counts, step.macs, step.size[0] * step.size[1]))

    def _core(self, row: Row, step: Compute) -> None:
        row[K.CORE] = core = self._core_kind(step)
        self.cores.append(core)
        if step.source is None:
            return
        buffer = self.plan.buffers[step.source.buffer]
        window = step.active[0]
        (top, left) = window.padding if core in (Core.CONV, Core.DEPTHWISE) else (0, 0)
        row[K.IN], row[K.IN_ROW], row[K.IN_PIXEL] = self._place(step.source, top, left)
        row[K.IN_HEIGHT], row[K.IN_WIDTH] = buffer.height, buffer.width
        row[K.KERNEL_H], row[K.KERNEL_W] = window.kernel
        row[K.STRIDE_H], row[K.STRIDE_W] = window.stride
        row[K.PAD_H], row[K.PAD_W] = window.padding
        row[K.DILATION_H], row[K.DILATION_W] = window.dilation
        row[K.STEP_H] = row[K.IN_ROW] * window.dilation[0]
        row[K.STEP_W] = row[K.IN_PIXEL] * window.dilation[1]
        row[K.BLOCKS] = -(-step.out.channels // LANES)
        row[K.COUNT_PAD] = int(step.count_pad)
        if core is Core.RESIZE:
            row[K.TABLE_H], row[K.TABLE_W] = (self.c.add(table, np.int64) for table in (window.rows, window.columns))
            row[K.TAPS_H], row[K.TAPS_W] = len(window.rows[0]), len(window.columns[0])
            row[K.WEIGHT], row[K.BIAS] = (self.w.add(taps, np.float32) for taps in step.taps)
        elif step.weight is not None:
            self._weights(row, step, merge=window.dilation[1] == 1 and step.source.channels == buffer.channels)

    @staticmethod
    def _core_kind(step: Compute) -> Core:
        return Core[step.core.upper()]

    def _weights(self, row: Row, step: Compute, merge: bool) -> None:
        assert step.weight is not None
        out, per_group = step.weight.shape[:2]
        bias = np.zeros(out, np.float32) if step.bias is None else step.bias
        if row[K.CORE] == Core.DEPTHWISE:
            row[K.WEIGHT] = self.w.add(pack_depthwise(step.weight), np.float32, LANES)
            row[K.BIAS] = self.w.add(pad_channels(bias), np.float32, LANES)
            return
        weight, packed_bias = pack_conv(step.weight, bias, step.groups)
        row[K.WEIGHT] = self.w.add(weight, np.float32, LANES)
        row[K.BIAS] = self.w.add(packed_bias, np.float32, LANES)
        row[K.GROUPS], row[K.GROUP_IN], row[K.GROUP_OUT] = step.groups, per_group, out // step.groups
        row[K.BLOCKS] = -(-(out // step.groups) // LANES)
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
            columns = np.array(self._place(view), np.int64)
            if (buffer.height, buffer.width) != step.size:
                columns[1:] = 0
            at = K.OPERANDS + index * OPERAND_COLUMNS
            row[at : at + OPERAND_COLUMNS] = columns
        for index in leaves(step.expr, "channel"):
            values = np.broadcast_to(step.channels[index], step.out.channels)
            row[K.PARAMETERS + index] = self.w.add(pad_channels(values), np.float32, LANES)

    def _list(self, step: Compute) -> tuple[int, int]:
        """The active list of a step; steps with the same sources share it."""
        key = (step.active, step.size)
        if key in self.lists:
            return self.lists[key]
        height, width = step.size
        row = self._row(Op.LIST)
        row[K.HEIGHT], row[K.WIDTH] = height, width
        row[K.LIST], row[K.LIST_COUNT] = self.q_size, self._cells(TASKS)
        self.q_size += height * width + (TASKS + 1) * (TILE + 2)
        sources = np.array([self._source(source, change) for source in step.active for change in source.maps], np.int64)
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.c.add(sources, np.int64), len(sources)
        for source in step.active:
            self.line = max(self.line, (width + 1) * source.stride[1] + source.kernel[1] * source.dilation[1] + 64)
            if source.kind == "taps":
                self.line = max(self.line, max(self.plan.buffers[self.plan.maps[m]].width for m in source.maps) + 64)
        self.lists[key] = (int(row[K.LIST]), int(row[K.LIST_COUNT]))
        return self.lists[key]

    def _source(self, source: Source, change: int) -> Row:
        buffer = self.plan.buffers[self.plan.maps[change]]
        row = np.zeros(int(S.NUMBERS), np.int64)
        row[S.KIND] = ("window", "taps", "whole").index(source.kind)
        row[S.MAP], row[S.MAP_ROW] = self.map_at[change] + origin(buffer), pitch(buffer)
        row[S.HEIGHT], row[S.WIDTH] = buffer.height, buffer.width
        row[S.FLAGS], row[S.COUNT] = self.flags_at[change], self.count_at[change]
        row[S.KERNEL_H], row[S.KERNEL_W] = source.kernel
        row[S.STRIDE_H], row[S.STRIDE_W] = source.stride
        row[S.PAD_H], row[S.PAD_W] = source.padding
        row[S.DILATION_H], row[S.DILATION_W] = source.dilation
        if source.kind == "taps":
            row[S.KERNEL_H], row[S.KERNEL_W] = len(source.rows[0]), len(source.columns[0])
            row[S.TABLE_H], row[S.TABLE_W] = (self.c.add(t, np.int64) for t in (source.rows, source.columns))
            row[S.PAD_W] = 0
        return row

    def _emit(self, step: Emit, out_at: list[int]) -> list[int]:
        view, buffer = step.view, self.plan.buffers[step.view.buffer]
        row = self._row(Op.EMIT)
        row[K.HEIGHT], row[K.WIDTH], row[K.CHANNELS] = buffer.height, buffer.width, view.channels
        row[K.IN], row[K.IN_ROW], row[K.IN_PIXEL] = self._place(view)
        row[K.ARRAY] = out_at[step.array]
        row[K.DIRTY] = self._bytes(buffer.height * (buffer.width + 1))
        row[K.LIST] = self.q_size
        self.q_size += TASKS * (buffer.width + TILE)
        sources = np.array([self._source(Source((change,)), change) for change in view.maps], np.int64)
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.c.add(sources, np.int64), len(sources)
        return [self.count_at[change] for change in view.maps]

    def _place_scratch(self) -> int:
        """Puts a scratch area per task at the end of a, as large as the largest need; returns its size."""
        size = -(-self.scratch // LANES) * LANES + LANES
        for row in self.rows:
            row[K.SCRATCH], row[K.SCRATCH_SIZE], row[K.LINE] = self.a_size, size, self.line
        return size


def assemble(plan: Plan, dense_above: float = 1.0) -> Image:
    """Lays out a plan.

    Args:
        plan: what lowering made.
        dense_above: share of a frame's pixels that may change before the frame is a refresh.
    """
    return Assembler(plan, dense_above).assemble()
