"""Whole steps of an engine for GPUs equal those of PyTorch and of the CPU engine, in every order of threads."""

from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.build import compile_engine
from skipfx.model import SkipModel
from skipfx.options import Hold
from skipfx.runtime import Engine, Stream
from skipfx.transformation import transform
from tests.networks import Frames
from tests.runtime.check import EXACT, Array, Net, assert_close, assert_same, changing, flat, noise, reference, settled
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.loops import ORDERS
from tests.runtime.cuda.network import Geometry, geometries, network

FLOAT32 = 1e-4  # of the largest value: what is asked of float32 on a GPU; the loops stay within `assert_close`


def outputs(place: Place, stream: Stream, frames: Frames) -> list[Array]:
    """The outputs of a stream on a device, in the host's memory."""
    return [leaf.host() for leaf in stream_leaves(stream(*map(place.frame, frames)))]


def stream_leaves(found: Any) -> list[Any]:
    if isinstance(found, dict):
        return list(found.values())
    return list(found) if isinstance(found, list | tuple) else [found]


def assert_equal_streams(place: Place, model: nn.Module, clip: list[Frames], gate: Hold) -> None:
    """The device, the CPU engine and PyTorch agree on the outputs, and both engines on what was computed."""
    assert_equal_steps(place, transform(model, clip[0], gate=gate), clip)


def assert_equal_steps(place: Place, skip: SkipModel, clip: list[Frames]) -> None:
    """The same, of a transformed model."""
    stream, other = place.engine(skip).stream(), compile_engine(skip, threads=1, dense_above=1.0).stream()
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        found = outputs(place, stream, frames)
        assert_close(found, expected, f"at frame {time}", FLOAT32)
        assert_close(found, flat(other(*frames)), f"at frame {time}", FLOAT32)
        mine, theirs = stream.active(), other.active()
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine), f"at frame {time}"
        assert stream.stats == other.stats


def test_every_kind_of_kernel(place: Place) -> None:
    geometry = Geometry()
    assert_equal_streams(place, network(geometry), geometry.clip(), EXACT)


def test_thresholds(place: Place) -> None:
    model, geometry, gate = network(Geometry()), Geometry(), Hold(threshold=0.1, input_threshold=0.05)
    skip = transform(model, geometry.clip()[0], gate=gate)
    assert_equal_streams(place, model, settled(skip, lambda seed: geometry.clip(seed, share=0.2)), gate)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(geometries)
def test_every_geometry_in_every_order(geometry: Geometry) -> None:
    """In PyTorch's results within rounding, and bit by bit the same whatever thread comes first."""
    clip = geometry.clip(seed=3)
    skip = transform(network(geometry), clip[0], gate=EXACT)
    with loops(LoopDriver()):
        program = compile_engine(skip, target="cuda", dense_above=1.0).program
    streams = []
    for order in ORDERS:
        with loops(LoopDriver(order)):
            streams.append(Engine(program).stream())
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        first, *others = [flat(stream(*(frame.numpy() for frame in frames))) for stream in streams]
        assert_close(first, expected, f"at frame {time}")
        for found in others:
            assert_same(first, found, f"at frame {time}")


def test_frames_side_by_side(device: Place) -> None:
    """Two frames, one of which scales the other; a value of the whole picture; a slice; values that move."""

    def scaled(m: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        mixed = torch.sigmoid(m.mix(y)) * m.main(x)
        moved = F.pixel_shuffle(F.pad(mixed[:, :4], (1, 2, 0, 1), value=0.5), 2)
        return {"mixed": mixed, "mean": F.adaptive_avg_pool2d(mixed, 1), "slice": x[:, 1:3] + 0.0, "moved": moved}

    net = Net(scaled, main=nn.Conv2d(4, 6, 3, padding=1), mix=nn.Conv2d(2, 1, 1))
    assert_equal_streams(device, net, changing((4, 9, 10), (2, 9, 10)), EXACT)


def test_threshold_zero_is_bit_identical_to_refreshing_on_every_frame(device: Place) -> None:
    clip = Geometry().clip()
    engine = device.engine(transform(network(Geometry()), clip[0], gate=EXACT))
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, frames in enumerate(clip):
        assert_same(outputs(device, stream, frames), outputs(device, refreshed, frames), f"at frame {time}")


def test_a_still_frame_computes_nothing(device: Place) -> None:
    geometry = Geometry()
    clip = geometry.clip()
    stream = device.engine(transform(network(geometry), clip[0], gate=Hold(threshold=0.1))).stream()
    before = outputs(device, stream, clip[0])
    for _ in range(3):  # as often as there are output arrays, and once more
        assert_same(outputs(device, stream, clip[0]), before)
        assert stream.stats.active_macs == 0


def test_much_change_is_a_refresh(device: Place) -> None:
    geometry = Geometry()
    first = noise(1, 3, geometry.height, geometry.width)
    skip = transform(network(geometry), (first,), gate=EXACT)
    stream = device.engine(skip, dense_above=0.5).stream()
    outputs(device, stream, (first,))
    some, much = first.clone(), first.clone()
    some[:, :, :2] += 1
    much[:, :, 2:] += 1
    refreshed = []
    for frame in (some, much, much):
        outputs(device, stream, (frame,))
        refreshed.append(stream.stats.refreshed)
    assert refreshed == [False, True, False]
