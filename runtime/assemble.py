"""Turns a plan into memory and rows: where every buffer lies, and a row of numbers per step.

What a row says about the core of its step, weights included, is filled in by `skipfx.runtime.cores`, what it says about
the end by `skipfx.runtime.ends`.
What the columns mean stands in `skipfx.runtime.kernels.table`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skipfx.numbering import number
from skipfx.plan import (
    Compute,
    Dense,
    Emit,
    Gate,
    GateStep,
    Give,
    Ingest,
    Keep,
    Open,
    Pair,
    Plan,
    Segment,
    Source,
    View,
    Weigh,
)
from skipfx.runtime.cores import Cores
from skipfx.runtime.dense_rows import fill_dense, fill_give
from skipfx.runtime.ends import Ends
from skipfx.runtime.gate_rows import fill
from skipfx.runtime.image import Call, Image, LayerCell, arrays, floats
from skipfx.runtime.kernels.table import (
    HEAVY,
    LANES,
    LINES,
    OPERAND_COLUMNS,
    SCRATCH,
    TASKS,
    TILE,
    Column,
    Op,
    Tile,
)
from skipfx.runtime.layout import Layout, Row

K = Column


class Assembler:
    """Assembles one plan; see `assemble`."""

    def __init__(self, plan: Plan, dense_above: float, tiles: Sequence[Tile]) -> None:
        self.plan, self.dense_above = plan, dense_above
        self.memory = Layout(plan)
        self.cores = Cores(plan, self.memory, tiles)
        self.ends = Ends(plan, self.memory)
        self.lists: dict[tuple[Any, ...], tuple[int, int]] = {}
        self.rows: list[Row] = []
        self.layers: list[LayerCell] = []
        self.dense: list[Hashable] = []

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
            cores=tuple(self.cores.specs),
            epilogues=tuple(self.ends.epilogues),
            fused=tuple(self.ends.fused),
            alone=tuple(self.ends.alone),
            held=tuple(self.ends.held),
            dense=tuple(self.dense),
        )

    def _segment(self, index: int, segment: Segment) -> Call:
        first = len(self.rows)
        if index == 0:
            self._clear()
        in_at = self._offsets([self._ingest_size(segment, i) for i in range(len(segment.arrays_in))])
        out_at = self._offsets([floats(shape, dtype) for shape, dtype in arrays(segment)])
        self._ingest([step for step in segment.steps if isinstance(step, Ingest)], in_at)
        computed = len(self.rows)
        for step in segment.steps:
            if isinstance(step, Compute):
                self._compute(step)
            elif isinstance(step, GateStep):
                self._gate(step)
            elif isinstance(step, Dense):
                fill_dense(step, self._row(Op.DENSE), self.memory, number(self.dense, step.kernel))
        given = len(self.rows)
        emits = [step for step in segment.steps if isinstance(step, Emit)]
        last = tuple(step.array for step in emits if self._is_channels_last(step, segment))
        for step in segment.steps:
            if isinstance(step, Give):
                array = step.array
                fill_give(step, self._row(Op.GIVE), self.memory, segment.arrays_out[array], out_at[array])
        changed = [cell for step in emits for cell in self._emit(step, out_at, step.array in last)]
        runs = (computed - first, given - computed, len(self.rows) - given)
        return Call(first * int(K.NUMBERS), *runs, in_at[-1], out_at[-1], tuple(changed), last)

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
        list_at, counts = self._list(step.active, step.size, step.keep)
        row = self._row(Op.COMPUTE)
        self._writes(row, step.out, step.map, step.gate)
        row[K.LIST], row[K.LIST_COUNT] = list_at, counts
        self.cores.fill(row, step)
        self.ends.fill(row, step)
        self._scratch(row, 0 if step.weight is None else step.weight.size)
        if step.macs:
            self.layers.append(LayerCell(step.name, list_at, counts, step.macs, *step.size))

    def _scratch(self, row: Row, weights: int) -> None:
        """As many tiles at a time as fit; more where the weights are so many that they should serve longer."""
        groups, group_out, panels, blocks = (int(row[k]) for k in (K.GROUPS, K.GROUP_OUT, K.PANELS, K.BLOCKS))
        pitch = (groups - 1) * group_out + panels * blocks * LANES
        serve = 4 * -(-weights // HEAVY) if weights > HEAVY else 1
        positions = int(row[K.HEIGHT] * row[K.WIDTH])
        tiles = min(max(1, SCRATCH * serve // (pitch * TILE)), -(-positions // TILE))
        row[K.SCRATCH_PITCH], row[K.CHUNK] = pitch, tiles
        self.memory.need_scratch(pitch * max(TILE * tiles, *(tile.positions for tile in self.cores.tiles)))
        self.memory.need_spots(TILE * tiles)

    def _list(self, active: tuple[Source, ...], size: Pair, keep: Keep | None = None) -> tuple[int, int]:
        """An active list; steps with the same sources share it."""
        key = (active, keep, size)
        if key in self.lists:
            return self.lists[key]
        height, width = size
        row = self._row(Op.LIST)
        row[K.HEIGHT], row[K.WIDTH] = height, width
        row[K.LIST] = self.memory.positions(height * width + (TASKS + 1) * (TILE + 2))
        row[K.LIST_COUNT] = self.memory.cells()
        row[K.SOURCES], row[K.SOURCE_COUNT] = self.memory.sources(active)
        for source in active:
            widest = max(self.plan.buffers[self.plan.maps[change]].width for change in source.maps)
            self.memory.need_line(max((width + 1) * source.stride[1] + source.kernel[1] * source.dilation[1], widest))
        if keep is not None:
            kept = self._row(Op.KEEP)
            kept[K.OP + 1 :] = row[K.OP + 1 :]
            kept[K.OPERANDS : K.OPERANDS + OPERAND_COLUMNS] = self.memory.place(keep.mask)
            kept[K.INSIDE] = int(keep.inside)
        self.lists[key] = (int(row[K.LIST]), int(row[K.LIST_COUNT]))
        return self.lists[key]

    def _gate(self, step: GateStep) -> None:
        list_at = (0, 0) if isinstance(step, Open) else self._list(step.active, step.size)
        row = self._row(Op[type(step).__name__.upper()])
        row[K.LIST], row[K.LIST_COUNT] = list_at
        fill(step, row, self.memory)
        if isinstance(step, Weigh):
            self.layers.append(LayerCell(step.name, *list_at, step.macs, *step.size))

    def _is_channels_last(self, step: Emit, segment: Segment) -> bool:
        """Whether an array may lie as the map does: an output in the map's own shape, which no island reads."""
        buffer = self.plan.buffers[step.view.buffer]
        own = (step.view.channels, buffer.height, buffer.width)
        return segment is self.plan.segments[-1] and not segment.island and segment.arrays_out[step.array][1:] == own

    def _emit(self, step: Emit, out_at: list[int], channels_last: bool) -> list[int]:
        """Returns the cells that count the changes of what is emitted."""
        view, buffer = step.view, self.plan.buffers[step.view.buffer]
        row = self._row(Op.EMIT)
        row[K.HEIGHT], row[K.WIDTH], row[K.CHANNELS] = buffer.height, buffer.width, view.channels
        row[K.IN], row[K.IN_ROW], row[K.IN_PIXEL] = self.memory.place(view)
        row[K.ARRAY], row[K.OUT_PIXEL] = out_at[step.array], view.channels if channels_last else 1
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
