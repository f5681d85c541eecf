"""Streams in lock step: a batch of frames in, a batch of outputs out, and a state for every lane."""

from collections.abc import Sequence
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
    lanes run one after another, each on all threads of the engine; on a GPU, together.

    Attributes:
        streams: the lanes; each can be refreshed, reset, read, and given a frame by itself.
    """

    def __init__(self, engine: "Engine", streams: Sequence[Stream]) -> None:
        self.engine = engine
        self.streams = tuple(streams)
        self._shapes = tuple((len(self.streams), *shape[1:]) for shape in engine.program.frames)

    def __call__(self, *frames: Any, only: Sequence[int] | None = None) -> Any:
        """Takes the next frame of every lane, gives the outputs in the model's own structure.

        Args:
            frames: float32 arrays or CPU tensors [B, C, H, W]; for a GPU in its memory.
            only: the lanes that have a frame; None: all. The others cost nothing and keep their state, their part of
                `frames` is not read, and their outputs are those of their last frame; before the first, and after a
                reset, they mean nothing.

        Returns:
            Outputs with the lanes along their first dimension, or along a new one where they have no batch dimension.

        Raises:
            FrameError: wrong number, shape, type or device, or NaN in any lane; all states stay as they were.
            OptionError: `only` names no lane, one twice, or one that there is not.
            UsageError: another thread is inside a call.
        """
        leaves = self._leaves(frames, self._chosen(only))
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

    def _leaves(self, frames: tuple[Any, ...], chosen: list[int]) -> list[Any]:
        """The outputs of all lanes, flattened."""
        batch = self._checked(frames, chosen)
        found = {b: self.streams[b].leaves([array[b : b + 1] for array in batch]) for b in chosen}
        like = found[chosen[0]]
        lanes = [found[b] if b in found else stream.held(like) for b, stream in enumerate(self.streams)]
        return as_given([_joined(parts) for parts in zip(*lanes, strict=True)], frames[0])

    def _chosen(self, only: Sequence[int] | None) -> list[int]:
        every = range(len(self.streams))
        chosen = list(every if only is None else only)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(every):
            raise OptionError(f"expected some of the lanes 0 to {len(self.streams) - 1}, each once, got only={only}")
        return chosen

    def _checked(self, frames: tuple[Any, ...], chosen: list[int]) -> list[Array]:
        batch = as_arrays(frames, self._shapes)
        for array in batch:
            for lane in chosen:
                if not np.isfinite(array[lane]).all():
                    raise FrameError(
                        f"the frame of lane {lane} holds NaN or infinity; all lanes are as they were before"
                    )
        return batch


def _joined(parts: tuple[Array, ...]) -> Array:
    """One output of all lanes."""
    batched = parts[0].ndim > 0 and parts[0].shape[0] == 1
    return np.concatenate(parts) if batched else np.stack(parts)
