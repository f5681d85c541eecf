"""What every stream does, whatever computes it: take a frame, refresh when due, give the outputs in their structure."""

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from skipfx.errors import FrameError, OptionError, UsageError
from skipfx.runtime.frames import Array, Shapes, as_arrays, as_given
from skipfx.runtime.structure import Structure, rebuild


@dataclass(frozen=True)
class Stats:
    """What the last frame cost.

    Attributes:
        active_macs: multiply-accumulates of the sparse region that were computed.
        total_macs: those of a dense frame.
        refreshed: whether the frame opened every gate.
        layers: active share of the positions, per layer.
    """

    active_macs: int
    total_macs: int
    refreshed: bool
    layers: dict[str, float]

    @property
    def active_fraction(self) -> float:
        """active_macs / total_macs."""
        return self.active_macs / self.total_macs


class BaseStream(ABC):
    """The state of one camera; used by one thread at a time.

    Args:
        shapes: of the frames.
        structure: of the outputs.
        refresh_every: frames between two refreshes; None: only the first frame is one.
    """

    def __init__(self, shapes: Shapes, structure: Structure, refresh_every: int | None) -> None:
        if refresh_every is not None and refresh_every < 1:
            raise OptionError(f"refresh_every must be at least 1, got {refresh_every}")
        self.refresh_every = refresh_every
        self._shapes, self._structure = shapes, structure
        self._since_refresh: int | None = None
        self._busy = threading.Lock()

    def __call__(self, *frames: Any) -> Any:
        """Takes the next frame, gives the outputs in the model's own structure.

        Args:
            frames: float32 arrays or CPU tensors of the shapes the model was made for, [1, C, H, W].

        Returns:
            Arrays that keep their values for as long as they are held. They are read-only, since the stream goes on
            with their memory once they are dropped: copy what is to be changed in place. Where the first frame was a
            tensor of PyTorch, which knows no read-only memory, tensors of their own.

        Raises:
            FrameError: wrong number, shape, type or device, or NaN; the state stays as it was.
            UsageError: another thread is inside a call of this stream.
        """
        leaves = self._given(self.leaves(self._taken(frames)), frames[0])
        return rebuild(self._structure, iter(leaves))

    def leaves(self, arrays: list[Array]) -> list[Array]:
        """The outputs of the next frame, flattened; errors as for a call."""
        if not self._busy.acquire(blocking=False):
            raise UsageError("this stream is serving another thread: use one stream per camera and thread")
        try:
            return self._run(arrays)
        except FrameError:
            raise
        except BaseException:
            self._since_refresh = None  # whatever was half done, a refresh mends
            raise
        finally:
            self._busy.release()

    def refresh(self) -> None:
        """Makes the next frame open every gate."""
        self._since_refresh = None

    @property
    @abstractmethod
    def stats(self) -> Stats:
        """What the last frame cost."""

    @abstractmethod
    def _run(self, frames: list[Array]) -> list[Array]:
        """The outputs of the next frame, flattened; raises FrameError before it changes anything."""

    def _taken(self, frames: tuple[Any, ...]) -> list[Array]:
        """The frames as `_run` takes them."""
        return as_arrays(frames, self._shapes)

    def _given(self, leaves: list[Array], like: Any) -> list[Any]:
        """The outputs as arrays of the library that the first frame came from."""
        return as_given(leaves, like)

    def _is_due(self) -> bool:
        """Whether the next frame is a refresh."""
        since, every = self._since_refresh, self.refresh_every
        return since is None or (every is not None and since + 1 >= every)
