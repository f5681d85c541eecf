"""Thresholds that are set later are those that a model is compiled with, and shares are counted as they say."""

import numpy as np
import pytest
import torch

from benchmarks.realised import ALL, figures
from benchmarks.thresholds import mean_active, search, with_thresholds
from skipfx import Hold, Preprocess
from skipfx.bench.compare import Clip, Comparison
from skipfx.bench.timing import Timing
from skipfx.build import compile_engine
from skipfx.runtime import Engine
from skipfx.transformation import transform
from tests.networks import Branches, seeded


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A patch that grows over a still picture, frame by frame."""
    random = np.random.default_rng(0)
    pictures = np.repeat(random.integers(0, 256, (1, 24, 32, 3), np.uint8), 8, axis=0)
    for time in range(8):
        pictures[time, : 4 + time, : 6 + 2 * time] = random.integers(0, 256, (4 + time, 6 + 2 * time, 3), np.uint8)
    return Clip(list(pictures), Preprocess())


def compiled(clip: Clip, threshold: float, input_threshold: float) -> Engine:
    gate = Hold(threshold=threshold, input_threshold=input_threshold)
    return compile_engine(transform(seeded(Branches()), (torch.from_numpy(clip[0][0]),), gate=gate))


def test_thresholds_set_later_are_those_compiled_with(clip: Clip) -> None:
    program = with_thresholds(compiled(clip, 1, 1).program, 0.3, 0.05)
    np.testing.assert_allclose(program.w, compiled(clip, 0.3, 0.05).program.w, rtol=1e-6)


def test_a_search_finds_the_share(clip: Clip) -> None:
    program = compiled(clip, 1, 1).program
    found = search(program, clip, 0.1, input_threshold=0.05)
    assert mean_active(with_thresholds(program, *found), clip) == pytest.approx(0.1, abs=0.03)


def test_the_input_threshold_gives_way_where_it_hides_too_much(clip: Clip) -> None:
    program = compiled(clip, 1, 1).program
    threshold, pixel = search(program, clip, 0.1, input_threshold=10)
    assert pixel < 10
    assert mean_active(with_thresholds(program, threshold, pixel), clip) == pytest.approx(0.1, abs=0.03)


def test_a_realised_share_is_time_saved_over_work_saved() -> None:
    """Four times faster at a fifth of the work realises four fifths; all of the work in the same time, all."""
    dense = {"torch": Timing(((0.04,),)), "openvino": Timing(((0.02,),))}
    stream = {"20%": Timing(((0.005,),)), ALL: Timing(((0.02,),))}
    found = figures(Comparison(dense, stream, {}), {"20%": 0.2, ALL: 1.0})
    assert found["fastest"] == "openvino"
    assert found["realised"]["20%"]["median"] == pytest.approx(0.8)
    assert found["realised"][ALL]["median"] == pytest.approx(1.0)
