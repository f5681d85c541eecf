"""A stream on a GPU. It differs from one on the CPU in where its memory lies and in how a step is started."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import FrameError
from skipfx.runtime.gpu.device import Device
from skipfx.runtime.gpu.launches import launches
from skipfx.runtime.gpu.memory import DeviceArray
from skipfx.runtime.kernels.table import Cell
from skipfx.runtime.native import tensor
from skipfx.runtime.outputs import OutputSlots
from skipfx.runtime.stream import Stream

if TYPE_CHECKING:
    from skipfx.runtime.engine import Engine

Array = NDArray[Any]


class DeviceStream(Stream):
    """The state of one camera on a GPU. Made by `Engine.stream`.

    A step is recorded once and started as a whole for every frame; the host then waits for two numbers, which say
    whether the frame was finite and whether it became a refresh.

    Attributes:
        queue: handle of the CUDA stream that the work is put on, such as `torch.cuda.current_stream().cuda_stream`;
            0 is the default one. Frames must be ready there, and outputs are.
    """

    def __init__(self, engine: "Engine", device: Device, refresh_every: int | None = None) -> None:
        self.device, self._queue = device, 0
        self._replay: Callable[[int], None] | None = None
        super().__init__(engine, refresh_every)

    @property
    def queue(self) -> int:
        """Handle of the CUDA stream that the work is put on."""
        return self._queue

    @queue.setter
    def queue(self, handle: int) -> None:
        self._queue = handle
        for array in (self._a, self._m, self._q, self._n):
            array.queue = handle  # type: ignore[attr-defined]

    def _allocate(self) -> None:
        a, m, _, positions, n = self.engine.program.sizes
        scratch, _ = self.engine.program.per_task
        self._a, self._m = self._zeros(a + scratch * self.device.driver.blocks, np.float32), self._zeros(m, np.uint8)
        self._q, self._n = self._zeros(positions, np.int64), self._zeros(n, np.int64)
        size = max(1, self.engine.program.parts[-1].call.o_size)
        driver = self.device.driver  # not the stream itself, which would then be freed later than it could be
        self._slots = OutputSlots(size, lambda size: DeviceArray(driver, (size,), np.float32))
        joined = sum(int(np.prod(shape)) for shape in self.engine.program.frames)
        self._frames = self._zeros(joined if len(self.engine.program.frames) > 1 else 0, np.float32)

    def _zeros(self, count: int, dtype: Any) -> Any:
        return DeviceArray(self.device.driver, (count,), dtype)

    def _taken(self, frames: tuple[Any, ...]) -> list[Any]:
        shapes = self.engine.program.frames
        if len(frames) != len(shapes):
            raise FrameError(f"expected {len(shapes)} frames, got {len(frames)}")
        return [self._checked_frame(frame, shape) for frame, shape in zip(frames, shapes, strict=True)]

    def _checked_frame(self, frame: Any, shape: tuple[int, ...]) -> Any:
        """The frame as a tensor of tvm_ffi, which keeps it alive."""
        driver = self.device.driver
        where = (driver.kind, driver.index)
        found = frame.__dlpack_device__() if hasattr(frame, "__dlpack_device__") else type(frame).__name__
        if isinstance(found, str) or tuple(map(int, found)) != where:
            raise FrameError(
                f"expected a frame in the memory of device {where} (kind and number, as DLPack counts), got {found}: "
                "move it there, as with frame.to('cuda')"
            )
        array = tensor(frame.detach() if hasattr(frame, "detach") else frame)
        if tuple(array.shape) != shape:
            raise FrameError(
                f"expected a frame of shape {list(shape)}, got {list(array.shape)}; a stream is for one size: compile "
                "the model for another"
            )
        if str(array.dtype) != "float32" or not array.is_contiguous():
            raise FrameError(f"expected a contiguous float32 frame, got {array.dtype}, strides {list(array.strides)}")
        return array

    def _run(self, frames: list[Any]) -> list[Any]:
        fresh = self._is_due()
        array, slot, full = self._slots.take()
        cells = np.zeros(int(Cell.FIRST_COUNT), np.int64)
        cells[[Cell.REFRESH, Cell.FULL, Cell.SLOT]] = fresh, full, 1 << slot
        cells[[Cell.TAKEN, Cell.GIVEN]] = self._joined(frames), array.address
        self._n[: int(Cell.FIRST_COUNT)] = cells
        if self._replay is None:
            self._replay = self.device.driver.record(self._launch)
        self._replay(self.queue)
        refreshed, bad = self._n[: int(Cell.BAD) + 1]
        if bad:
            raise FrameError("the frame holds NaN or infinity; the stream is as it was before")
        self._slots.written(slot)
        self._since_refresh = 0 if refreshed else (self._since_refresh or 0) + 1
        return self._outputs(array)

    def _joined(self, frames: list[Any]) -> int:
        """Address of the frames, one behind the other; a single one stays where it is."""
        if len(frames) == 1:
            return int(frames[0].data_ptr())
        start = 0
        for frame in frames:
            self._frames.take(start, int(frame.data_ptr()), frame.numel(), self.queue)
            start += frame.numel()
        return int(self._frames.address)

    def _launch(self, queue: int) -> None:
        driver = self.device.driver
        memory: tuple[Any, ...] = (self._a, self._m, self._q, self._n, self.device.w, self.device.c)
        pointers = tuple(array.address for array in memory)
        counts = int(Cell.FIRST_COUNT)
        for launch in launches(self.engine.program):
            driver.launch(self.device.kernels[launch.kernel], pointers, launch.row, queue)
            if launch.zero_counts:
                size = self._n.size - counts
                driver.zero(pointers[3] + counts * self._n.itemsize, size * self._n.itemsize, queue)

    def _outputs(self, array: Any) -> list[Any]:
        program, starts = self.engine.program, [0]
        for shape in program.parts[-1].arrays_out:
            starts.append(starts[-1] + int(np.prod(shape)))
        keys = [key[1] for key in program.outputs if not isinstance(key, str)]
        return [array.part(starts[key], program.parts[-1].arrays_out[key]) for key in keys]

    def _given(self, leaves: list[Any], like: Any) -> list[Any]:
        """The outputs as arrays of the library that the first frame came from, where it reads DLPack."""
        library = sys.modules.get(type(like).__module__.partition(".")[0])
        take = getattr(library, "from_dlpack", None)
        return leaves if take is None else [take(leaf) for leaf in leaves]
