"""A real detector on a real clip; skipped where they are not at hand (see `benchmarks.data`)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skipfx.build import compile_engine
from skipfx.media import Preprocess, open_frames
from skipfx.model import SkipModel
from skipfx.options import Hold
from skipfx.runtime import Engine
from skipfx.transformation import transform
from tests.runtime.check import EXACT, assert_close, assert_same, flat

DATA = Path(os.environ.get("SKIPFX_DATA", Path(__file__).parents[3] / "shared" / "data"))
MODEL, CLIP = DATA / "models" / "yolov5n_480x640.pt2", DATA / "pets" / "pets_s2l1_480x360.mp4"
FRAMES = 200

pytestmark = pytest.mark.skipif(not (MODEL.is_file() and CLIP.is_file()), reason=f"needs {MODEL} and {CLIP}")


@pytest.fixture(scope="module")
def clip() -> list[NDArray[np.float32]]:
    pytest.importorskip("cv2")
    preprocess = Preprocess(size=(480, 640))
    with open_frames(CLIP, limit=FRAMES) as source:
        return [preprocess(picture) for picture in source]


def detector(frame: NDArray[np.float32], gate: Hold) -> tuple[SkipModel, Engine]:
    skip = transform(MODEL, (torch.from_numpy(frame),), gate=gate)
    return skip, compile_engine(skip, dense_above=1.0)


@pytest.mark.parametrize("length", [20, pytest.param(FRAMES, marks=pytest.mark.slow)])
def test_threshold_zero_is_exact(clip: list[Any], length: int) -> None:
    skip, engine = detector(clip[0], EXACT)
    dense = skip.program.module()
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, frame in enumerate(clip[:length]):
        outputs = flat(stream(frame))
        assert_same(outputs, flat(refreshed(frame)), f"at frame {time}")
        if time % 20 == 0:
            with torch.no_grad():
                expected = flat(dense(torch.from_numpy(frame)))
            assert_close(outputs, expected, f"at frame {time}", tolerance=1e-4)


def test_thresholds_mean_what_they_mean_in_pytorch(clip: list[Any]) -> None:
    skip, engine = detector(clip[0], Hold(threshold=0.15, input_threshold=12 / 255))
    stream, state = engine.stream(), skip.init_state()
    for time, frame in enumerate(clip[:10]):
        with torch.no_grad():
            expected, state = skip(torch.from_numpy(frame), state)
        for found, wanted in zip(stream(frame), expected, strict=True):
            # a norm at its threshold may round either way, which moves few positions by no more than a threshold
            differs = np.abs(found - wanted.numpy()).max(1) > 1e-3 * np.abs(wanted.numpy()).max()
            assert differs.mean() < 0.01, f"at frame {time}"
        if time:
            assert 0 < stream.stats.active_fraction < 0.3
