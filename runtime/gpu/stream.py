"""A stream on a GPU. It differs from one on the CPU in where its memory lies and in how a step is started."""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import FrameError, UsageError
from skipfx.runtime.gpu.batch import Batch
from skipfx.runtime.kernels.table import MASK, SHIFT
from skipfx.runtime.native import tensor
from skipfx.runtime.stream import Stream

if TYPE_CHECKING:
    from skipfx.runtime.engine import Engine

Array = NDArray[Any]


class DeviceStream(Stream):
    """The state of one camera on a GPU. Made by `Engine.stream`, or with others by `Engine.lanes`.

    Args:
        engine: what it runs.
        batch: of streams that it is one of.
        lane: its number there.
        refresh_every: frames between two refreshes; None: only the first frame is one.
    """

    def __init__(self, engine: "Engine", batch: Batch, lane: int = 0, refresh_every: int | None = None) -> None:
        self._batch, self._lane = batch, lane
        super().__init__(engine, refresh_every)
        self._busy = batch.busy

    @property
    def queue(self) -> int:
        """Handle of the CUDA stream that the work is put on, such as `torch.cuda.current_stream().cuda_stream`.

        0 is the default one. Frames must be ready there, and outputs are.
        """
        return self._batch.queue

    @queue.setter
    def queue(self, handle: int) -> None:
        self._batch.queue = handle

    def active(self) -> dict[str, NDArray[np.bool_]]:
        """The positions of each layer that the last frame computed, bool [H, W].

        Raises:
            UsageError: other lanes took a step since then, and their positions stand where those of this one stood.
        """
        maps, counts = {}, self._numbers()
        for layer in self.engine.program.layers:
            computed = maps[layer.name] = np.zeros((layer.height, layer.width), np.bool_)
            if counts[layer.counts] > 0:  # else the list may be of a state that was replaced
                found = self._batch.positions(layer.list, layer.counts)
                mine = found[found >> (2 * SHIFT) == self._lane]
                if mine.size < counts[layer.counts]:
                    raise UsageError(
                        f"lane {self._lane} had no frame in the last step of its lanes, which share their lists: ask "
                        "for its active positions before the others go on"
                    )
                computed[mine >> SHIFT & MASK, mine & MASK] = True
        return maps

    def due(self) -> bool:
        """Whether the next frame is a refresh."""
        return self._is_due()

    def stepped(self, refreshed: bool) -> None:
        """Says that the stream took a frame, and whether it became a refresh."""
        self._since_refresh = 0 if refreshed else (self._since_refresh or 0) + 1

    def _allocate(self) -> None:
        self._a = self._batch.state(self._lane)  # type: ignore[assignment]

    def _numbers(self) -> Array:
        return self._batch.numbers(self._lane)

    def _forget_changes(self) -> None:
        self._batch.forget_changes(self._lane)

    def _taken(self, frames: tuple[Any, ...]) -> list[Any]:
        return taken(frames, self.engine.program.frames, self._batch)

    def _run(self, frames: list[Any]) -> list[Any]:
        array, (refreshed,) = self._batch.step(frames, self._lane, {self._lane: self.due()})
        self.stepped(refreshed)
        return self._batch.outputs(array, self._lane)

    def _given(self, leaves: list[Any], like: Any) -> list[Any]:
        return given(leaves, like)


def taken(frames: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...], batch: Batch) -> list[Any]:
    """The frames of one time as tensors of tvm_ffi, which keep them alive.

    Raises:
        FrameError: wrong number, shape, type or device, or not contiguous.
    """
    if len(frames) != len(shapes):
        raise FrameError(f"expected {len(shapes)} frames, got {len(frames)}")
    return [_checked(frame, shape, batch) for frame, shape in zip(frames, shapes, strict=True)]


def _checked(frame: Any, shape: tuple[int, ...], batch: Batch) -> Any:
    driver = batch.device.driver
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


def given(leaves: list[Any], like: Any) -> list[Any]:
    """The outputs as arrays of the library that a frame came from, where it reads DLPack."""
    library = sys.modules.get(type(like).__module__.partition(".")[0])
    take = getattr(library, "from_dlpack", None)
    return leaves if take is None else [take(leaf) for leaf in leaves]
