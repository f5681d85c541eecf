"""Many streams in one sequence of launches: each is what a stream of its own would be, and idle ones stay."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipfx.errors import FrameError, UsageError
from skipfx.model import SkipModel
from skipfx.options import Hold
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded
from tests.runtime.check import Array, Net, assert_same
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.network import Geometry, network
from tests.runtime.cuda.test_step import outputs, stream_leaves

GEOMETRY = Geometry()
CLIPS = [GEOMETRY.clip(seed, share=0.3) for seed in range(3)]


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    return transform(network(GEOMETRY), CLIPS[0][0], gate=Hold(threshold=0.05))


def batch(place: Place, time: int) -> Any:
    return place.frame(torch.cat([clip[time][0] for clip in CLIPS]))


def of_lane(found: Any, lane: int) -> list[Array]:
    """The outputs of one lane, in the host's memory."""
    return [leaf.host()[lane : lane + 1] for leaf in stream_leaves(found)]


def test_a_lane_is_a_stream_of_its_own(place: Place, skip: SkipModel) -> None:
    """Lanes 0 and 2 miss frames, lane 1 is refreshed, lane 2 is reset and takes a frame by itself."""
    engine = place.engine(skip)
    lanes, streams = engine.lanes(3), [engine.stream() for _ in CLIPS]
    last: dict[int, list[Array]] = {}
    for time, only in enumerate([None, [1, 0], [2], [0, 1, 2], [1]]):
        for group in (lanes.streams, streams):
            if time == 2:
                group[2].reset()
            if time == 3:
                group[1].refresh()
        found = lanes(batch(place, time), only=only)
        for lane in range(3) if only is None else only:
            last[lane] = outputs(place, streams[lane], CLIPS[lane][time])
        for lane, expected in last.items():
            assert_same(of_lane(found, lane), expected, f"lane {lane} at frame {time}")
        assert lanes.stats == tuple(stream.stats for stream in streams)
    expected = outputs(place, streams[2], CLIPS[2][3])
    assert_same(outputs(place, lanes.streams[2], CLIPS[2][3]), expected)
    assert_same(of_lane(lanes(batch(place, 1), only=[0]), 2), expected)


def test_each_lane_computes_what_its_own_frame_changed(device: Place, skip: SkipModel) -> None:
    engine = device.engine(skip)
    lanes, streams = engine.lanes(3), [engine.stream() for _ in CLIPS]
    for time in range(3):
        lanes(batch(device, time))
        for lane, stream in enumerate(streams):
            outputs(device, stream, CLIPS[lane][time])
            mine, alone = lanes.streams[lane].active(), stream.active()
            assert all(np.array_equal(mine[name], alone[name]) for name in alone), f"lane {lane} at frame {time}"
    lanes(batch(device, 7))  # everywhere
    lanes(batch(device, 3), only=[0])
    lanes.streams[0].active()
    with pytest.raises(UsageError, match="lane 1 had no frame in the last step"):
        lanes.streams[1].active()


def test_a_snapshot_of_one_lane_leaves_what_the_others_computed(device: Place, skip: SkipModel) -> None:
    lanes = device.engine(skip).lanes(2)
    first = CLIPS[0][0][0]
    for frame in (first, first + 1):
        lanes(device.frame(torch.cat([first, frame])))
    before, stats = lanes.streams[1].active(), lanes.streams[1].stats
    assert any(computed.any() for computed in before.values())
    lanes.streams[0].load_state_dict(lanes.streams[0].state_dict())
    after = lanes.streams[1].active()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert lanes.streams[1].stats == stats
    assert not any(computed.any() for computed in lanes.streams[0].active().values())
    assert lanes.streams[0].stats.active_macs == 0


def test_a_bad_frame_in_one_lane_leaves_all_as_they_were(device: Place, skip: SkipModel) -> None:
    engine = device.engine(skip)
    lanes, undisturbed = engine.lanes(3), engine.lanes(3)
    for time in range(3):
        for both in (lanes, undisturbed):
            both(batch(device, time))
        bad = torch.cat([clip[time + 1][0] for clip in CLIPS])
        bad[2, 0, 4, 4] = float("nan")
        before = lanes.stats
        with pytest.raises(FrameError, match="the frame of lane 2 holds NaN or infinity; all lanes"):
            lanes(device.frame(bad))
        assert lanes.stats == before
        again = lanes(device.frame(bad), only=[0, 1]), undisturbed(device.frame(bad), only=[0, 1])
        for lane in range(3):
            assert_same(of_lane(again[0], lane), of_lane(again[1], lane))
    assert lanes.stats == undisturbed.stats


def test_one_lane_goes_back_to_a_snapshot(device: Place, skip: SkipModel) -> None:
    lanes = device.engine(skip).lanes(3)
    lanes(batch(device, 0))
    snapshot = lanes.streams[1].state_dict()
    first = lanes(batch(device, 1))
    expected = [of_lane(first, lane) for lane in range(3)]
    lanes.streams[1].load_state_dict(snapshot)
    again = lanes(batch(device, 1), only=[1])
    for lane in range(3):
        assert_same(of_lane(again, lane), expected[lane], f"lane {lane}")


def test_frames_of_two_kinds_and_outputs_without_a_batch_dimension(device: Place) -> None:
    def scaled(m: Any, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        total = m.image(image) + m.depth(depth)
        return total, (total[:, :1] * depth)[0]

    net = seeded(Net(scaled, image=nn.Conv2d(3, 4, 3, padding=1), depth=nn.Conv2d(1, 4, 1)))
    images = [frame for (frame,) in moving_clip(3, 8, 10, length=3)]
    depths = [frame for (frame,) in moving_clip(1, 8, 10, length=3, seed=1)]
    engine = device.engine(transform(net, (images[0], depths[0])))
    lanes, alone = engine.lanes(2), engine.stream()
    for image, depth in zip(images, depths, strict=True):
        total, product = lanes(device.frame(torch.cat([image + 1, image])), device.frame(torch.cat([depth, depth])))
        expected = outputs(device, alone, (image, depth))
        assert_same([total.host()[1:], product.host()[1]], expected)


def test_lanes_serve_one_thread_at_a_time(device: Place, skip: SkipModel) -> None:
    lanes = device.engine(skip).lanes(2)
    frames = device.frame(torch.cat([CLIPS[0][0][0]] * 2))
    lanes.streams[0]._busy.acquire()
    with pytest.raises(UsageError, match="another thread"):
        lanes(frames)
    with pytest.raises(UsageError, match="another thread"):
        lanes.streams[1](device.frame(CLIPS[0][0][0]))
    lanes.streams[0]._busy.release()
    lanes(frames)
