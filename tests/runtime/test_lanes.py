"""Streams in lock step: each lane is what a stream of its own would be."""

import numpy as np
import pytest
import torch

from skipfx.errors import CompileError, FrameError, OptionError
from skipfx.plan import Buffer, Plan
from skipfx.runtime import Engine
from skipfx.runtime.layout import Layout
from tests.networks import Squeeze, TwoFrames, moving_clip, seeded
from tests.runtime.check import Array, assert_same, compiled, flat

CLIPS = [[frame.numpy() for (frame,) in moving_clip(3, 9, 8, length=5, seed=seed)] for seed in range(3)]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return compiled(seeded(Squeeze()), moving_clip(3, 9, 8)[0])[1]


def batch(time: int) -> Array:
    return np.concatenate([clip[time] for clip in CLIPS])


def test_a_lane_is_a_stream_of_its_own(engine: Engine) -> None:
    lanes, streams = engine.lanes(3), [engine.stream() for _ in CLIPS]
    for time in range(5):
        if time == 3:
            lanes.refresh()
            for stream in streams:
                stream.refresh()
        expected = [stream(clip[time]) for stream, clip in zip(streams, CLIPS, strict=True)]
        assert_same(flat(lanes(batch(time))), [np.concatenate(expected)], f"at frame {time}")
        assert lanes.stats == tuple(stream.stats for stream in streams)


def test_outputs_without_a_batch_dimension_are_stacked() -> None:
    engine = compiled(seeded(TwoFrames()), moving_clip(3, 8, 10)[0] + moving_clip(1, 4, 5)[0])[1]
    image, depth = torch.rand(2, 3, 8, 10), torch.rand(2, 1, 4, 5)
    total, mean = engine.lanes(2)(image, depth)
    assert isinstance(mean, torch.Tensor) and tuple(mean.shape) == (2,)
    single = engine.stream()(image[1:], depth[1:])
    assert torch.equal(total[1:], single[0]) and torch.equal(mean[1], single[1])


def test_a_bad_frame_in_one_lane_leaves_all_as_they_were(engine: Engine) -> None:
    lanes, other = engine.lanes(3), engine.lanes(3)
    for both in (lanes, other):
        both(batch(0))
    bad = batch(1)
    bad[2, 0, 4, 4] = np.nan
    with pytest.raises(FrameError, match="the frame of lane 2 holds NaN or infinity"):
        lanes(bad)
    assert_same(flat(lanes(batch(2))), flat(other(batch(2))))
    assert lanes.stats == other.stats


def test_lanes_without_a_frame_cost_nothing_and_stay(engine: Engine) -> None:
    lanes, streams = engine.lanes(3), [engine.stream() for _ in CLIPS]
    assert not flat(lanes(batch(0), only=[2]))[0][:2].any()
    last = [streams[lane](CLIPS[lane][0]) for lane in range(3)]
    lanes(batch(0), only=[0, 1])
    for time, only in enumerate([[1], [2, 0]], start=1):
        spoilt = batch(time)
        for lane in {0, 1, 2} - {*only}:
            spoilt[lane] = np.nan
        found, before = flat(lanes(spoilt, only=only)), lanes.stats
        for lane in only:
            last[lane] = streams[lane](CLIPS[lane][time])
        assert_same(found, [np.concatenate(last)], f"at frame {time}")
        assert before == tuple(stream.stats for stream in streams)
    for wrong in ([], [0, 0], [3], [-1]):
        with pytest.raises(OptionError, match="some of the lanes 0 to 2, each once"):
            lanes(batch(0), only=wrong)


def test_reset_forgets_all_lanes(engine: Engine) -> None:
    lanes = engine.lanes(3)
    first = lanes(batch(0))
    lanes(batch(1))
    lanes.reset()
    assert_same(flat(lanes(batch(0))), flat(first))
    assert all(stats.refreshed for stats in lanes.stats)


def test_wrong_batches_are_refused(engine: Engine) -> None:
    with pytest.raises(OptionError, match="at least one lane, got 0"):
        engine.lanes(0)
    with pytest.raises(FrameError, match=r"expected a frame of shape \[2, 3, 9, 8\], got \[3, 3, 9, 8\]"):
        engine.lanes(2)(batch(0))
    with pytest.raises(FrameError, match="expected 1 frames, got 2"):
        engine.lanes(3)(batch(0), batch(0))


def test_maps_wider_than_positions_count_are_refused() -> None:
    widest = Plan(((1, 1, 1, 1 << 16),), (Buffer(1, 1 << 16, 1, 0),), (0,), ())
    Layout(widest)
    with pytest.raises(CompileError, match="a map is 65537 positions wide"):
        Layout(Plan(((1, 1, 1, 65537),), (Buffer(1, 65537, 1, 0),), (0,), ()))
