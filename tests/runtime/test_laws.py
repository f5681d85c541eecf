"""The laws of the hold gate, on the compiled engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from skipfx.options import Hold
from tests.networks import Branches, Squeeze, moving_clip, seeded
from tests.runtime.check import EXACT, Net, assert_close, assert_same, compiled, flat, noise
from tests.strategies import Sample, samples

CLIP = moving_clip(3, 13, 18, length=6)


BRANCHES, SQUEEZE = seeded(Branches()), seeded(Squeeze())
both = pytest.mark.parametrize("model", [BRANCHES, SQUEEZE], ids=["local", "island"])


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(samples())
def test_threshold_zero_is_bit_identical_to_refreshing_on_every_frame(sample: Sample) -> None:
    _, engine = compiled(sample.model, sample.clip[0], EXACT)
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, frames in enumerate(sample.clip):
        assert_same(flat(stream(*frames)), flat(refreshed(*frames)), f"at frame {time}")


@both
def test_a_refresh_is_the_dense_model(model: nn.Module) -> None:
    _, engine = compiled(model, CLIP[0], Hold(threshold=0.3))
    stream = engine.stream(refresh_every=1)
    for frames in CLIP:
        with torch.no_grad():
            expected = flat(model(*frames))
        assert_close(flat(stream(*frames)), expected)
        assert stream.stats.refreshed


@both
def test_a_refresh_forgets_what_came_before(model: nn.Module) -> None:
    _, engine = compiled(model, CLIP[0], Hold(threshold=0.3))
    used, new = engine.stream(), engine.stream()
    for frames in CLIP[:-1]:
        used(*frames)
    used.refresh()
    assert_same(flat(used(*CLIP[-1])), flat(new(*CLIP[-1])))


@both
def test_a_still_frame_computes_nothing_and_changes_nothing(model: nn.Module) -> None:
    _, engine = compiled(model, CLIP[0], Hold(threshold=0.1))
    stream = engine.stream()
    for frames in CLIP:
        before = flat(stream(*frames))
    for _ in range(3):  # as often as there are output arrays, and once more
        assert_same(flat(stream(*CLIP[-1])), before)
        assert stream.stats.active_macs == 0
        assert not any(active.any() for active in stream.active().values())


@both
def test_results_do_not_depend_on_the_number_of_threads(model: nn.Module) -> None:
    gate = Hold(threshold=0.1)
    streams = [compiled(model, CLIP[0], gate, threads=threads)[1].stream() for threads in (1, 2, 3)]
    for time, frames in enumerate(CLIP):
        alone, *others = [flat(stream(*frames)) for stream in streams]
        for stream, together in zip(streams[1:], others, strict=True):
            assert_same(together, alone, f"at frame {time}")
            assert stream.stats == streams[0].stats
            for name, active in stream.active().items():
                assert np.array_equal(active, streams[0].active()[name])


def test_nothing_drifts_under_slow_change() -> None:
    """The output is a held map moved through an identity: it stays within the threshold of the true one."""
    conv, eye = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
    model = Net(lambda net, x: net.eye(net.conv(x)), conv=conv, eye=eye)
    eye.weight.data = torch.eye(8)[:, :, None, None]
    picture, direction = noise(1, 3, 9, 11, seed=1), noise(1, 3, 9, 11, seed=2)
    share = 0.1
    skip, engine = compiled(model, (picture,), Hold(threshold=share, input_threshold=0))
    scale = next(scale for name, scale in skip.recipe.scales.items() if name.startswith("conv2d"))
    stream, moved = engine.stream(), 0
    for time in range(2000):
        frame = picture + 1e-4 * time * direction
        held = flat(stream(frame))[0]
        with torch.no_grad():
            true = conv(frame).numpy()
        distance = np.sqrt(np.mean((held - true) ** 2, 1)).max()
        assert distance <= share * scale * (1 + 1e-4), f"at frame {time}"
        moved += stream.stats.active_fraction < 1 and bool(np.any(held != true))
    assert moved > 100  # the change was below the threshold on many frames


def logarithm(net: Any, x: Tensor) -> list[Tensor]:
    return [net.b(torch.log(net.a(x))), 1 / net.a(x)]


def root_of_an_island(net: Any, x: Tensor) -> Tensor:
    result: Tensor = net.b(net.a(x) * torch.sqrt(2 - x.std((2, 3)))[:, :, None, None])
    return result


@pytest.mark.parametrize("body", [logarithm, root_of_an_island])
@pytest.mark.parametrize("gate", [EXACT, Hold(threshold=1e-6, input_threshold=0)], ids=["exact", "held"])
def test_values_that_are_not_finite_go_with_their_cause(body: Callable[..., Any], gate: Hold) -> None:
    """Infinity and NaN inside the network, or out of an island, come and go as where every frame is a refresh."""
    model = Net(body, a=nn.Conv2d(1, 17, 1, bias=False), b=nn.Conv2d(17, 3, 3))
    model.a.weight.data.abs_()
    clip = [torch.ones(1, 1, 6, 7) for _ in range(7)]
    for time, value in enumerate((-99.0, 0.0, -99.0, 1.0, 0.0, 1.0)):
        clip[time + 1][:, :, 2:4, 3] = value
    _, engine = compiled(model, (noise(1, 1, 6, 7).abs() + 1,), gate)
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, frame in enumerate(clip):
        for one, other in zip(flat(stream(frame)), flat(refreshed(frame)), strict=True):
            assert np.array_equal(np.isfinite(one), np.isfinite(other)), f"at frame {time}"
            assert np.allclose(one, other, rtol=1e-4, equal_nan=True), f"at frame {time}"
