"""Where everything of a plan lies in the memory of a stream, and the constants that all streams share."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import CompileError
from skipfx.plan import Plan, Room, Source, View
from skipfx.runtime.image import origin, pitch, pixel, positions
from skipfx.runtime.kernels.table import LANES, SHIFT, TASKS, Cell, SourceColumn

S = SourceColumn
Row = NDArray[np.int64]
CACHE_LINE = 64


@dataclass
class Pool:
    """Constants of one type, laid end to end."""

    dtype: type
    parts: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0

    def add(self, values: Any, align: int = 1) -> int:
        """Appends values; returns where they start."""
        array: NDArray[Any] = np.ascontiguousarray(values, self.dtype).reshape(-1)
        spare = -self.size % align
        self.parts += [np.zeros(spare, self.dtype), array]
        start = self.size + spare
        self.size = start + array.size
        return start

    def joined(self) -> NDArray[Any]:
        """All of them, and room for a vector that is read past the end."""
        return np.concatenate([*self.parts, np.zeros(LANES, self.dtype)])


class Layout:
    """Hands out the memory of a stream; the letters are those of `skipfx.runtime.kernels.table`."""

    def __init__(self, plan: Plan) -> None:
        widest = max((buffer.width for buffer in plan.buffers), default=0)
        if widest > 1 << SHIFT:
            raise CompileError(
                f"a map is {widest} positions wide; kernels count {1 << SHIFT}: cut the frame into parts"
            )
        self.plan = plan
        self.w, self.c = Pool(np.float32), Pool(np.int64)
        self.a_size = self.m_size = self.q_size = 0
        self.n_size = int(Cell.FIRST_COUNT)
        self.line = 0
        self.scratch = self.spots = 0
        self.constants: dict[int, int] = {}
        self.buffer_at = [self.floats(positions(buffer) * pixel(buffer)) for buffer in plan.buffers]
        self.room_at = [self.floats(size) for size in plan.rooms]
        self.map_at = [self.bytes(positions(plan.buffers[index])) for index in plan.maps]
        self.flags_at = [self.bytes(plan.buffers[index].height) for index in plan.maps]
        self.count_at = [self.cells() for _ in plan.maps]

    def floats(self, count: int) -> int:
        """Room in a."""
        start = self.a_size
        self.a_size += -(-count // LANES) * LANES
        return start

    def bytes(self, count: int) -> int:
        """Room in m."""
        start = self.m_size
        self.m_size += -(-count // CACHE_LINE) * CACHE_LINE
        return start

    def positions(self, count: int) -> int:
        """Room in q."""
        start = self.q_size
        self.q_size += count
        return start

    def cells(self) -> int:
        """A count per task, in n."""
        start = self.n_size
        self.n_size += TASKS
        return start

    def need_scratch(self, count: int) -> None:
        """Makes sure that a task has so many floats of scratch."""
        self.scratch = max(self.scratch, -(-count // LANES) * LANES + LANES)

    def need_spots(self, count: int) -> None:
        """Makes sure that a task may note so many positions, and one more that does not count."""
        self.spots = max(self.spots, count + 1)

    def need_line(self, count: int) -> None:
        """Makes sure that a scratch line has so many bytes, and room for a vector more."""
        self.line = max(self.line, count + CACHE_LINE)

    def place(self, view: View, top: int = 0, left: int = 0) -> tuple[int, int, int]:
        """First float of the picture (or of `top`, `left` outside it), floats per row, floats per position."""
        buffer = self.plan.buffers[view.buffer]
        first = origin(buffer) - top * pitch(buffer) - left
        start = self.buffer_at[view.buffer] + first * pixel(buffer) + view.channel
        return start, pitch(buffer) * pixel(buffer), pixel(buffer)

    def element(self, tensor: View | Room | NDArray[Any]) -> int:
        """Where a tensor of a dense island starts, in elements of its type: a constant in w, others in a."""
        if isinstance(tensor, View):
            return self.place(tensor)[0]
        if isinstance(tensor, Room):
            return self.room_at[tensor.index] * 4 // np.dtype(tensor.dtype).itemsize
        return self._constant(tensor) * 4 // tensor.itemsize

    def _constant(self, values: NDArray[Any]) -> int:
        """Room in w for elements of any type, bit by bit; the same array has it once."""
        if id(values) not in self.constants:
            data = values.tobytes()
            bits = np.frombuffer(data + bytes(-len(data) % 4), np.float32)
            self.constants[id(values)] = self.w.add(bits, 2)
        return self.constants[id(values)]

    def spare(self, view: View) -> int:
        """Floats behind the channels of a position that belong to nobody."""
        buffer = self.plan.buffers[view.buffer]
        return pixel(buffer) - buffer.channels if view.channel + view.channels == buffer.channels else 0

    def change_map(self, index: int) -> tuple[int, int, int, int, int, int]:
        """First position of a change map, positions per row, height, width, flags per row, counts per task."""
        buffer = self.plan.buffers[self.plan.maps[index]]
        start = self.map_at[index] + origin(buffer)
        return start, pitch(buffer), buffer.height, buffer.width, self.flags_at[index], self.count_at[index]

    def sources(self, found: tuple[Source, ...]) -> tuple[int, int]:
        """Where the rows of some sources stand in c, one per change map, and how many they are."""
        rows = [self._source(source, change) for source in found for change in source.maps]
        return self.c.add(rows), len(rows)

    def _source(self, source: Source, change: int) -> Row:
        row = np.zeros(int(S.NUMBERS), np.int64)
        row[S.KIND] = ("window", "taps", "whole").index(source.kind)
        row[S.MAP : S.COUNT + 1] = self.change_map(change)
        row[S.KERNEL_H], row[S.KERNEL_W] = source.kernel
        row[S.STRIDE_H], row[S.STRIDE_W] = source.stride
        row[S.PAD_H], row[S.PAD_W] = source.padding
        row[S.DILATION_H], row[S.DILATION_W] = source.dilation
        if source.kind == "taps":
            row[S.KERNEL_H], row[S.KERNEL_W] = len(source.rows[0]), len(source.columns[0])
            row[S.TABLE_H], row[S.TABLE_W] = self.c.add(source.rows), self.c.add(source.columns)
        return row
