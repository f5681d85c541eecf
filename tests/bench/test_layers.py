"""A frame that is run row by row is the frame; every layer is named, and what it took stands beside its name."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from skipfx.bench.compare import WARMUP, Clip
from skipfx.bench.layers import LayerTime, _watched, layer_times
from skipfx.media import Preprocess
from skipfx.options import Hold
from skipfx.runtime import Engine
from tests.networks import Squeeze, seeded
from tests.runtime.check import assert_same, compiled, flat


@pytest.fixture(scope="module")
def clip() -> Clip:
    random = np.random.default_rng(0)
    pictures = np.repeat(random.integers(0, 256, (1, 12, 16, 3), np.uint8), WARMUP + 2, axis=0)
    for time in range(len(pictures)):
        pictures[time, 2:4, time : time + 3] = 255
    return Clip(list(pictures), Preprocess())


@pytest.fixture(scope="module")
def engine(clip: Clip) -> Engine:
    frames = tuple(map(torch.from_numpy, clip[0]))
    return compiled(seeded(Squeeze()), frames, gate=Hold(threshold=0.1, input_threshold=0.1), threads=2)[1]


def test_row_by_row_is_the_same_frame(engine: Engine, clip: Clip) -> None:
    taken: dict[Any, float] = defaultdict(float)
    whole, parts = engine.stream(), _watched(engine, taken).stream()
    for frames in clip:
        assert_same(flat(parts(*frames)), flat(whole(*frames)))
    assert all(seconds >= 0 for seconds in taken.values())


def test_every_layer_is_named(engine: Engine, clip: Clip) -> None:
    found = layer_times(engine, clip, rounds=1)
    names = [one.name for one in found]
    assert names[0] == "frames" and "outputs" in names
    assert {layer.name for layer in engine.program.layers} <= set(names)
    assert all(one.full >= 0 and one.compute >= 0 and one.listing >= 0 for one in found)


def test_a_layer_that_takes_a_tenth_of_the_time_for_a_tenth_of_the_positions_realises_all() -> None:
    assert LayerTime("conv", compute=0.8, listing=0.2, full=10).realised(0.1) == pytest.approx(1)
    assert LayerTime("conv", compute=1.6, listing=0.4, full=10).realised(0.1) == pytest.approx(0.5)
