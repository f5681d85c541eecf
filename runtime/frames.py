"""What callers hand in, as the arrays that a network takes; and what they get back."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import FrameError

Array = NDArray[Any]
Shapes = Sequence[tuple[int, ...]]


def as_arrays(frames: Sequence[Any], shapes: Shapes) -> list[Array]:
    """The frames of one time as contiguous float32 arrays, without a copy where they are ones already.

    Raises:
        FrameError: wrong number, shape, type or device.
    """
    if len(frames) != len(shapes):
        raise FrameError(f"expected {len(shapes)} frames, got {len(frames)}")
    return [_as_array(frame, shape) for frame, shape in zip(frames, shapes, strict=True)]


def as_given(leaves: list[Array], frame: Any) -> list[Any]:
    """The outputs as what the frame was; tensors of PyTorch, which know no read-only memory, get their own."""
    if type(frame).__module__.partition(".")[0] != "torch":
        return leaves
    return [sys.modules["torch"].from_numpy(leaf.copy(order="K")) for leaf in leaves]


def _as_array(frame: Any, shape: tuple[int, ...]) -> Array:
    """The frame as a contiguous float32 array, without a copy where it is one already."""
    if not isinstance(frame, np.ndarray):
        if not hasattr(frame, "__dlpack__"):
            raise FrameError(
                f"expected a NumPy array or a CPU tensor of shape {list(shape)}, got {type(frame).__name__}"
            )
        try:
            frame = np.from_dlpack(frame.detach() if hasattr(frame, "detach") else frame)
        except (BufferError, TypeError, RuntimeError, ValueError) as error:
            what = getattr(frame, "dtype", type(frame).__name__)
            raise FrameError(f"expected a float32 frame on the CPU, got {what} that cannot be read: {error}") from error
    if frame.shape != shape:
        raise FrameError(
            f"expected a frame of shape {list(shape)}, got {list(frame.shape)}; a stream is for one size: compile the "
            "model for another, or for several at once with sizes=[...]"
        )
    if frame.dtype != np.float32:
        raise FrameError(f"expected a float32 frame, got {frame.dtype}: convert it as the model expects")
    array: Array = frame
    plain = array.flags.c_contiguous and array.flags.aligned and array.flags.writeable
    return array if plain else array.copy()  # DLPack refuses read-only memory
