"""Streams in lock step on a GPU: one sequence of launches for all of them."""

from typing import TYPE_CHECKING, Any

from skipfx.errors import FrameError, UsageError
from skipfx.runtime.gpu.batch import Batch
from skipfx.runtime.gpu.stream import DeviceStream, given, taken
from skipfx.runtime.lanes import Lanes

if TYPE_CHECKING:
    from skipfx.runtime.engine import Engine


class DeviceLanes(Lanes):
    """See `Lanes`; a tile of positions may be of any lanes, and one without a frame costs nothing."""

    streams: tuple[DeviceStream, ...]

    def __init__(self, engine: "Engine", count: int, refresh_every: int | None = None) -> None:
        self._batch = Batch(engine.program, engine.device, count)
        super().__init__(engine, tuple(DeviceStream(engine, self._batch, b, refresh_every) for b in range(count)))

    @property
    def queue(self) -> int:
        """Handle of the CUDA stream that the work is put on; see `DeviceStream.queue`."""
        return self._batch.queue

    @queue.setter
    def queue(self, handle: int) -> None:
        self._batch.queue = handle

    def _leaves(self, frames: tuple[Any, ...], chosen: list[int]) -> list[Any]:
        batch = taken(frames, self._shapes, self._batch)
        if not self._batch.busy.acquire(blocking=False):
            raise UsageError("these lanes are serving another thread: use lanes of its own for each thread")
        try:
            array, refreshed = self._batch.step(batch, 0, {lane: self.streams[lane].due() for lane in chosen})
        except FrameError:
            raise
        except BaseException:
            self.refresh()  # mends what was half done
            raise
        finally:
            self._batch.busy.release()
        for lane, fresh in zip(chosen, refreshed, strict=True):
            self.streams[lane].stepped(fresh)
        return given(self._batch.outputs(array), frames[0])
