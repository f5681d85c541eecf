"""The states of some streams on a GPU, and the step that they take together."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import FrameError
from skipfx.runtime.gpu.device import Device
from skipfx.runtime.gpu.launches import Launch, launches
from skipfx.runtime.gpu.memory import DeviceArray
from skipfx.runtime.image import arrays, floats
from skipfx.runtime.kernels.table import TASKS, Cell
from skipfx.runtime.outputs import OutputSlots

if TYPE_CHECKING:
    from skipfx.runtime.engine import Program

Array = NDArray[Any]
CELLS = int(Cell.FIRST_COUNT)


class Batch:
    """Streams that share their launches; how they lie in memory says `skipfx.runtime.kernels.cuda.streams`.

    A step is recorded once and started as a whole for every frame; the host then waits for two numbers of each stream,
    which say whether its frame was finite and whether it became a refresh.

    Args:
        program: of the engine.
        device: that it is loaded on.
        count: how many streams.

    Attributes:
        busy: held during a step.

    Raises:
        DeviceError: out of memory; what was taken is given back.
    """

    def __init__(self, program: "Program", device: Device, count: int) -> None:
        self.program, self.device, self.count = program, device, count
        self.busy = threading.Lock()
        self._queue = 0
        self._replay: Callable[[int], None] | None = None
        driver = device.driver  # not the batch itself, which would then be freed later than it could be
        floats, bytes, _, positions, numbers = program.sizes
        scratch, _ = program.per_task
        self.a = DeviceArray(driver, (count * floats + scratch * driver.blocks,), np.float32)
        self.m = DeviceArray(driver, (count * bytes,), np.uint8)
        self.q = DeviceArray(driver, (count * positions,), np.int64)
        self.n = DeviceArray(driver, (count * numbers,), np.int64)
        joined = sum(int(np.prod(shape)) for shape in program.frames) if len(program.frames) > 1 else 0
        self._frames = DeviceArray(driver, (count * joined,), np.float32)
        size = count * max(1, program.parts[-1].call.o_size)
        self.slots = OutputSlots(size, lambda size: DeviceArray(driver, (size,), np.float32))
        self._cells = np.zeros((CELLS, count), np.int64)

    @property
    def queue(self) -> int:
        """Handle of the CUDA stream that the work is put on."""
        return self._queue

    @queue.setter
    def queue(self, handle: int) -> None:
        self._queue = handle
        for array in (self.a, self.m, self.q, self.n):
            array.queue = handle

    def step(self, frames: list[Any], first: int, due: dict[int, bool]) -> tuple[DeviceArray, list[bool]]:
        """Takes the next frames of some streams.

        Args:
            frames: arrays in the GPU's memory, of the frames of consecutive streams.
            first: the stream that their first frame belongs to.
            due: the streams that take theirs, and whether it is a refresh.

        Returns:
            The outputs of all streams, and which of those in `due` made a refresh.

        Raises:
            FrameError: a frame holds NaN or infinity; all streams are as they were.
        """
        array, slot, full = self.slots.take()
        before, cells, streams = self._cells, self._cells.copy(), list(due)
        cells[Cell.REFRESH, streams], cells[Cell.BAD] = list(due.values()), 0
        cells[Cell.IDLE], cells[Cell.RUNS, : len(streams)] = 1, streams
        cells[Cell.IDLE, streams] = 0
        cells[[Cell.FULL, Cell.SLOT, Cell.RUNNING, Cell.SPOILT], 0] = full, 1 << slot, len(streams), 0
        cells[[Cell.TAKEN, Cell.GIVEN], 0] = self._joined(frames, first), array.address
        self.n[: cells.size] = cells.reshape(-1)
        if self._replay is None:
            every = launches(self.program)
            self._replay = self.device.driver.record(lambda queue: self.launch(every, self.device.kernels, queue))
        self._replay(self.queue)
        refreshed, bad = self.n[: (Cell.BAD + 1) * self.count].reshape(-1, self.count)
        if bad.any():
            self.n[: cells.size] = before.reshape(-1)
            raise FrameError(self._refusal(int(bad.argmax())))
        cells[Cell.REFRESH] = refreshed
        self._cells = cells
        self.slots.written(slot)
        return array, [bool(refreshed[stream]) for stream in streams]

    def _refusal(self, stream: int) -> str:
        if self.count == 1:
            return "the frame holds NaN or infinity; the stream is as it was before"
        return f"the frame of lane {stream} holds NaN or infinity; all lanes are as they were before"

    def _joined(self, frames: list[Any], first: int) -> int:
        """Address of what would be the first stream's frame; several kinds of frames lie one behind the other."""
        sizes = [int(np.prod(shape)) for shape in self.program.frames]
        if len(frames) == 1:
            return int(frames[0].data_ptr()) - first * sizes[0] * self._frames.itemsize
        start = 0
        for frame, size in zip(frames, sizes, strict=True):
            self._frames.take(start + first * size, int(frame.data_ptr()), frame.numel(), self.queue)
            start += size * self.count
        return int(self._frames.address)

    def launch(self, wanted: Sequence[Launch], kernels: Mapping[str, Any], queue: int) -> None:
        """Puts launches of a step on a queue, with these kernels."""
        memory = (self.a, self.m, self.q, self.n, self.device.w, self.device.c)
        pointers = tuple(array.address for array in memory)
        floats, bytes, _, _, numbers = self.program.sizes
        for launch in wanted:
            numbered = (launch.row, self.count, floats, bytes, numbers)
            self.device.driver.launch(kernels[launch.kernel], pointers, numbered, queue)

    def numbers(self, stream: int) -> Array:
        """The numbers of a stream in n."""
        found: Array = self.n[:].reshape(-1, self.count)[:, stream]
        return found

    def positions(self, start: int, count: int) -> Array:
        """The packed positions of a list, of all streams, in no order."""
        total = int(self.n[(count + 1) * self.count])
        found: Array = self.q[start * self.count : start * self.count + total]
        return found

    def state(self, stream: int) -> DeviceArray:
        """What a stream holds in a."""
        floats = self.program.sizes[0]
        return self.a.part(stream * floats, (floats,))

    def forget_changes(self, stream: int) -> None:
        """Zeroes the change maps and numbers of a stream, whose state was replaced."""
        bytes = self.program.sizes[1]
        self.m[stream * bytes : (stream + 1) * bytes] = 0
        numbers = self.n[:].reshape(-1, self.count)
        numbers[Cell.REFRESH, stream] = self._cells[Cell.REFRESH, stream] = 0
        numbers[Cell.FIRST_COUNT :: TASKS, stream] = 0  # what stands between them serves all streams
        self.n[:] = numbers.reshape(-1)
        self.slots.forget()

    def outputs(self, array: DeviceArray, stream: int | None = None) -> list[DeviceArray]:
        """The outputs of a stream in an array that `step` gave, or of all, side by side."""
        program, start, leaves = self.program, 0, []
        for shape, dtype in arrays(program.parts[-1]):
            every = array.part(start, (self.count, *shape[int(shape[:1] == (1,)) :]), dtype)
            leaves.append(every if stream is None else every.part(stream * int(np.prod(shape)), shape))
            start += self.count * floats(shape, dtype)
        return [leaves[key[1]] for key in program.outputs if not isinstance(key, str)]
