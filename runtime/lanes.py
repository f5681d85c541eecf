"""Streams in lock step: a batch of frames in, a batch of outputs out, and a state for every lane."""

from typing import TYPE_CHECKING, Any

import numpy as np

from skipfx.errors import FrameError, OptionError
from skipfx.runtime.base_stream import Stats
from skipfx.runtime.frames import Array, as_arrays, as_given
from skipfx.runtime.stream import Stream
from skipfx.runtime.structure import rebuild

if TYPE_CHECKING:
    from skipfx.runtime.engine import Engine


class Lanes:
    """B streams that take their frames together. Made by `Engine.lanes`; used by one thread at a time.

    Lane b is a stream of its own: it computes what changed in its frames, and gives what a single stream gives. The
    lanes run one after another, each on all threads of the engine.

    Attributes:
        streams: the lanes.
    """

    def __init__(self, engine: "Engine", count: int, refresh_every: int | None = None) -> None:
        if count < 1:
            raise OptionError(f"expected at least one lane, got {count}")
        self.engine = engine
        self.streams = tuple(Stream(engine, refresh_every) for _ in range(count))

    def __call__(self, *frames: Any) -> Any:
        """Takes the next frame of every lane, gives the outputs in the model's own structure.

        Args:
            frames: float32 arrays or CPU tensors [B, C, H, W].

        Returns:
            Outputs with the lanes along their first dimension, or along a new one where they have no batch dimension.

        Raises:
            FrameError: wrong number, shape, type or device, or NaN in any lane; all states stay as they were.
            UsageError: another thread is inside a call.
        """
        batch = self._checked(frames)
        lanes = [stream.leaves([array[b : b + 1] for array in batch]) for b, stream in enumerate(self.streams)]
        leaves = as_given([_joined(parts) for parts in zip(*lanes, strict=True)], frames[0])
        return rebuild(self.engine.program.structure, iter(leaves))

    @property
    def stats(self) -> tuple[Stats, ...]:
        """What the last frame cost, lane by lane."""
        return tuple(stream.stats for stream in self.streams)

    def refresh(self) -> None:
        """Makes the next frame of every lane open every gate."""
        for stream in self.streams:
            stream.refresh()

    def reset(self) -> None:
        """Forgets all frames of all lanes."""
        for stream in self.streams:
            stream.reset()

    def _checked(self, frames: tuple[Any, ...]) -> list[Array]:
        batch = as_arrays(frames, tuple((len(self.streams), *shape[1:]) for shape in self.engine.program.frames))
        for array in batch:
            for lane, frame in enumerate(array):
                if not np.isfinite(frame).all():
                    raise FrameError(
                        f"the frame of lane {lane} holds NaN or infinity; all lanes are as they were before"
                    )
        return batch


def _joined(parts: tuple[Array, ...]) -> Array:
    """One output of all lanes."""
    batched = parts[0].ndim > 0 and parts[0].shape[0] == 1
    return np.concatenate(parts) if batched else np.stack(parts)
