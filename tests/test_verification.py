"""Verification: it passes what is right, and each of its checks can fail."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skipfx.errors import FrameError
from skipfx.model import SkipModel
from skipfx.options import Gate, Hold, InputNorm, OutputNorm
from skipfx.testing import Step, as_frames, drift
from skipfx.transformation import transform
from skipfx.verification import Verification, verify, verify_model, verify_steps
from tests.networks import Branches, Squeeze, TwoFrames, branches_clip, moving_clip, seeded

Array = NDArray[Any]
GATES: list[Gate] = [
    Hold(threshold=0.2, input_threshold=0.02),
    InputNorm(eps=0.05),
    OutputNorm(eps=0.1, p=2, reference="previous"),
]


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_transformed_model_keeps_its_promises(gate: Gate) -> None:
    clip = branches_clip()
    result = verify_model(transform(seeded(Branches()), clip[0], gate=gate, block=2), clip)
    assert result.ok and result.frames == len(clip) and len(result.outputs) == 2
    assert 0 < result.outputs[0].mean < result.outputs[0].maximum < 0.5  # skipping costs something, not everything
    assert (result.drift is None) == (gate.name != "hold")


def test_several_inputs_and_islands() -> None:
    clip = [(image, depth) for (image,), (depth,) in zip(moving_clip(3, 8, 10), moving_clip(1, 4, 5), strict=True)]
    assert verify_model(transform(seeded(TwoFrames()), clip[0], gate=GATES[0]), clip).ok
    clip_one = moving_clip(3, 8, 10)
    assert verify(transform(seeded(Squeeze()), clip_one[0], gate=GATES[0]), clip_one).ok


def test_clips_come_in_several_shapes() -> None:
    skip = transform(seeded(Branches()), branches_clip()[0], gate=GATES[0])
    clip = torch.cat([frame for (frame,) in branches_clip()])
    results = [verify_model(skip, form) for form in (clip, clip.numpy(), list(clip[:, None]), branches_clip())]
    assert all(result == results[0] for result in results)
    for wrong in ("frame", torch.zeros(3), (torch.zeros(1, 3, 12, 16), None)):
        with pytest.raises(FrameError, match="a clip holds frames"):
            as_frames(wrong)


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(FrameError, match="the clip is empty"):
        verify_model(transform(seeded(Branches()), branches_clip()[0], gate=GATES[0]), [])


def test_a_held_value_that_drifts_is_found() -> None:
    skip = transform(seeded(Branches()), branches_clip()[0], gate=GATES[0])
    for node in skip.graph_module.graph.nodes:  # a mask of another value than the one that is held
        if node.name == "changed_1":
            node.args = (node.args[1], node.args[1], *node.args[2:])
    skip.graph_module.recompile()
    farthest = drift(skip.graph_module, branches_clip())
    assert farthest is not None and farthest > 1
    assert not verify_model(skip, branches_clip()).ok


class _Doubling:
    """A stream of doubled frames that can be made wrong."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.count = wrong, 0

    def __call__(self, frames: tuple[Array, ...], refresh: bool) -> list[Array]:
        self.count += 1
        error = {
            "refresh": refresh * 1e-3,
            "still": (not refresh) * 1e-9 * self.count,
            "memory": refresh * 1e-9 * self.count,
            "nan": np.nan,
        }.get(self.wrong, 0.0)
        values = (2 * frames[0] + np.float32(error)).astype(np.float64) + error
        return [values[:, :1] if self.wrong == "shape" else values]


CLIP = [(np.random.default_rng(seed).random((1, 2, 3, 4), dtype=np.float32),) for seed in range(4)]
DENSE = [[2 * frame] for (frame,) in CLIP]


def check(step: Step) -> Verification:
    return verify_steps(step, CLIP, DENSE)


def test_a_right_stream_passes() -> None:
    result = check(_Doubling())
    assert result.ok and result.refresh_error == 0 and result.outputs[0].maximum == 0
    assert result.summary().startswith("verified on 4 frames") and "not measured" in result.summary()


@pytest.mark.parametrize(
    "wrong, field",
    [
        ("refresh", lambda r: 1e-4 < r.refresh_error < 1e-2),
        ("still", lambda r: not r.still_identical),
        ("memory", lambda r: not r.refresh_reproduces),
        ("nan", lambda r: r.refresh_error == float("inf")),
        ("shape", lambda r: r.refresh_error == float("inf")),
    ],
)
def test_each_check_can_fail(wrong: str, field: Callable[[Verification], bool]) -> None:
    result = check(_Doubling(wrong))
    assert not result.ok and field(result)
    assert result.summary().startswith("FAILED on 4 frames")


def test_drift_beyond_the_threshold_fails() -> None:
    result = verify_steps(_Doubling(), CLIP, DENSE, drift=1.01)
    assert not result.ok and "1.010 of the threshold" in result.summary()


class _Engine:
    """Looks like an engine: streams of their own that return the model's structure."""

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias

    def stream(self, refresh_every: int | None = None) -> Any:
        return _Stream(self.bias)


class _Stream:
    def __init__(self, bias: float) -> None:
        self.bias, self.refreshes = bias, 0

    def refresh(self) -> None:
        self.refreshes += 1

    def __call__(self, frame: Array) -> dict[str, list[Array]]:
        return {"parts": [2 * frame + np.float32(self.bias)]}


def test_an_engine_is_compared_with_the_model_or_with_itself() -> None:
    engine: Any = _Engine(bias=0.1)
    dense = [{"parts": outputs} for outputs in DENSE]
    assert verify(engine, CLIP).ok
    assert not verify(engine, CLIP, dense).ok
    right: Any = _Engine()
    assert verify(right, [frame for (frame,) in CLIP], dense).ok


def test_a_verification_goes_through_json() -> None:
    result = check(_Doubling())
    assert Verification.model_validate_json(result.model_dump_json()) == result


def test_verify_tells_a_model_from_an_engine() -> None:
    skip = transform(seeded(Branches()), branches_clip()[0], gate=GATES[0])
    assert isinstance(skip, SkipModel) and verify(skip, branches_clip()) == verify_model(skip, branches_clip())
