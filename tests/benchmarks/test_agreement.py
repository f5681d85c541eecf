"""PyTorch beside a runtime: the same outputs once it takes the same decisions, and decisions are told from ties."""

from pathlib import Path

import pytest

from benchmarks.agreement import Agreement, relative_error
from skipfx.export import export_onnx
from skipfx.options import Hold
from skipfx.passes.portable import cost
from skipfx.runtime import load_onnx
from skipfx.transformation import transform
from tests.networks import Branches, moving_clip, seeded

CLIP = moving_clip(3, 24, 30, length=10)


def agreement(folder: Path, threshold: float, of_the_runtime: float) -> tuple[Agreement, float]:
    """Of a model with one threshold and an export with another; the largest error of its outputs."""
    model = seeded(Branches())
    skips = [
        transform(model, CLIP[0], gate=Hold(threshold=t, input_threshold=0.1)) for t in (threshold, of_the_runtime)
    ]
    export_onnx(skips[1], folder / "model.onnx")
    found = Agreement(skips[0], load_onnx(folder / "model.onnx", 1))
    errors = [relative_error(*found.step(frame.numpy(), index in (0, 5))) for index, (frame,) in enumerate(CLIP)]
    return found, max(errors)


@pytest.fixture(autouse=True)
def always_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "STEP", 0)


def test_an_export_decides_otherwise_only_at_thresholds(tmp_path: Path) -> None:
    found, error = agreement(tmp_path, 0.1, 0.1)
    assert error <= 1e-5
    assert found.decisions.all > 10_000 and found.decisions.margin <= 1e-4


def test_other_decisions_are_followed_and_counted_with_how_far_they_are_off(tmp_path: Path) -> None:
    found, error = agreement(tmp_path, 0.1, 0.15)
    assert error <= 1e-5
    assert found.decisions.other > 10 and 0.05 < found.decisions.margin <= 0.5
