"""Checks that a stream keeps its promises on a clip; the same checks for a `SkipModel` and for a compiled engine.

The core needs NumPy alone: anything that takes a frame and a refresh flag and returns arrays can be verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from skipfx.errors import FrameError
from skipfx.options import LEARNED

if TYPE_CHECKING:
    from skipfx.model import SkipModel
    from skipfx.runtime.engine import Engine
    from skipfx.runtime.onnx_engine import OnnxEngine
    from skipfx.testing import Step

Array = NDArray[Any]
Frames = tuple[Array, ...]

REFRESH_TOLERANCE = 1e-4  # float32 sums of some thousand terms in another order
DRIFT_TOLERANCE = 1e-3  # a kernel may round a norm that lies at its threshold differently


class OutputError(BaseModel):
    """How far one output strays from the dense model at the configured thresholds.

    Attributes:
        maximum: the largest error of a frame, RMS of the difference over RMS of the dense output.
        mean: the mean over the frames.
    """

    model_config = ConfigDict(frozen=True)

    maximum: float
    mean: float


class Verification(BaseModel):
    """What held on a clip.

    Attributes:
        frames: length of the clip.
        refresh_error: largest difference of a refreshed frame from the dense model, relative to its largest value.
        still_identical: a frame that repeats the one before it gives the same output, bit for bit.
        refresh_reproduces: a refresh forgets what came before it, bit for bit.
        drift: largest distance of a held value from what it stands for, as a share of its threshold; None where
            nothing is held, or the values inside cannot be seen.
        outputs: errors at the configured thresholds, in the order of the model's outputs; for information.
    """

    model_config = ConfigDict(frozen=True)

    frames: int
    refresh_error: float
    still_identical: bool
    refresh_reproduces: bool
    drift: float | None = None
    outputs: tuple[OutputError, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise held."""
        return (
            self.refresh_error <= REFRESH_TOLERANCE
            and self.still_identical
            and self.refresh_reproduces
            and (self.drift is None or self.drift <= 1 + DRIFT_TOLERANCE)
        )

    def summary(self) -> str:
        """One line for each promise, and one for each output."""
        drift = "not measured" if self.drift is None else f"{self.drift:.3f} of the threshold, at most 1"
        lines = [
            f"{'verified' if self.ok else 'FAILED'} on {self.frames} frames",
            f"refresh agrees with the dense model   {self.refresh_error:.1e}, at most {REFRESH_TOLERANCE:.0e}",
            f"a still frame changes nothing         {_yes(self.still_identical)}",
            f"a refresh forgets the past            {_yes(self.refresh_reproduces)}",
            f"held values stay near their true ones {drift}",
        ]
        for index, output in enumerate(self.outputs):
            error = f"mean {output.mean:.2%}, largest {output.maximum:.2%}"
            lines.append(f"output {index}: error at the thresholds set  {error}")
        return "\n".join(lines)


def verify_steps(
    step: Step, clip: Sequence[Frames], dense: Sequence[Sequence[Array]], drift: float | None = None
) -> Verification:
    """Verifies anything that steps.

    Args:
        step: computes the outputs of the next frame; its flag asks for a refresh.
        clip: the frames, for each time the arrays [1, C, H, W] of all inputs.
        dense: for each time the outputs of the original model.
        drift: as in `Verification`, where the caller can tell.

    Raises:
        FrameError: the clip is empty.
    """
    if not clip:
        raise FrameError("the clip is empty: verification needs at least one frame")
    refresh_error, still = 0.0, True
    for frames, expected in zip(clip, dense, strict=True):
        refreshed = _copies(step(frames, True))
        refresh_error = max([refresh_error, *map(_peak_error, refreshed, expected)])
        still = still and _identical(step(frames, False), refreshed)
    errors = []
    for index, (frames, expected) in enumerate(zip(clip, dense, strict=True)):
        errors.append([_rms_error(*pair) for pair in zip(step(frames, index == 0), expected, strict=True)])
    table = np.array(errors)
    return Verification(
        frames=len(clip),
        refresh_error=refresh_error,
        still_identical=still,
        refresh_reproduces=_identical(step(clip[-1], True), refreshed),
        drift=drift,
        outputs=tuple(OutputError(maximum=float(e.max()), mean=float(e.mean())) for e in table.T),
    )


def verify(
    thing: SkipModel | Engine | OnnxEngine, clip: Iterable[Any], dense: Sequence[Any] | None = None
) -> Verification:
    """Verifies a transformed model or an engine on a clip.

    Args:
        thing: the model or the engine; an engine is tried on a stream of its own.
        clip: for each time a frame [1, C, H, W], or a tuple of them for models with several inputs.
        dense: for an engine, what the original model returns for each time, in its own structure. Without it the
            engine is compared with its own refreshed frames.

    Raises:
        FrameError: the clip is empty, or a frame does not fit the model.
    """
    if hasattr(thing, "graph_module"):
        return verify_model(cast("SkipModel", thing), clip)
    frames = [tuple(map(np.asarray, item if isinstance(item, tuple | list) else (item,))) for item in clip]
    if dense is None:
        fresh = thing.stream(refresh_every=1)
        dense = [fresh(*item) for item in frames]
    stream = thing.stream()

    def step(item: Frames, refresh: bool) -> list[Array]:
        if refresh:
            stream.refresh()
        return _leaves(stream(*item))

    return verify_steps(step, frames, [_leaves(outputs) for outputs in dense])


def verify_model(skip: SkipModel, clip: Iterable[Any]) -> Verification:
    """Verifies a transformed model on a clip.

    Args:
        skip: the model.
        clip: for each time a frame [1, C, H, W] or [C, H, W], as a tensor or an array; for models with several inputs
            a tuple of them.

    Raises:
        FrameError: the clip is empty, or a frame does not fit the model.
    """
    from skipfx import testing  # here, so that engines are verified without PyTorch

    frames = [testing.as_frames(item) for item in clip]
    if isinstance(skip.options.gate, LEARNED):  # the network was trained with its gates: the program is what it was
        dense = testing.run_refreshed(skip.graph_module, frames)
    else:
        dense = testing.run_dense(skip.program, frames)
    arrays = [tuple(frame.numpy() for frame in item) for item in frames]
    drift = testing.drift(skip.graph_module, frames) if frames else None
    return verify_steps(testing.stepper(skip), arrays, dense, drift)


def _leaves(outputs: Any) -> list[Array]:
    """Nested lists, tuples and dicts of arrays or tensors, flattened, without what is no array."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [leaf for part in outputs for leaf in _leaves(part)]
    return [np.asarray(outputs)] if hasattr(outputs, "shape") else []


def _peak_error(found: Array, expected: Array) -> float:
    """Largest difference, relative to the largest value; infinite for NaN or another shape."""
    if found.shape != expected.shape:
        return float("inf")
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
    error = float(difference / (np.abs(expected).max(initial=0.0) or 1.0))
    return error if np.isfinite(error) else float("inf")


def _rms_error(found: Array, expected: Array) -> float:
    """RMS of the difference, relative to the RMS of what was expected."""
    if found.shape != expected.shape:
        return float("inf")
    true = expected.astype(np.float64)
    return float(np.linalg.norm(found - true) / (np.linalg.norm(true) or 1.0))


def _copies(arrays: Sequence[Array]) -> list[Array]:
    return [array.copy() for array in arrays]


def _identical(left: Sequence[Array], right: Sequence[Array]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
