"""With thresholds above zero the engine opens the same gates as the PyTorch reference, frame after frame."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.options import Hold
from skipfx.verification import Verification, verify
from tests.networks import Branches, Frames, TwoFrames, moving_clip, seeded
from tests.runtime.check import TOLERANCE, Net, assert_close, changing, compiled, flat, reference, settled

GATE = Hold(threshold=0.2, input_threshold=0.1)
LOOSE = 10 * TOLERANCE  # held values differ in their last bits, and the difference stays


def _clip(seed: int) -> list[Frames]:
    return moving_clip(3, 12, 16, length=12, seed=seed, noise=0.02)


def _check(model: nn.Module, make: Any, gate: Hold, **options: Any) -> None:
    skip, engine = compiled(model, make(0)[0], gate, **options)
    clip = settled(skip, make)
    stream, fractions = engine.stream(), []
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        assert_close(flat(stream(*frames)), expected, f"at frame {time}", LOOSE)
        fractions.append(stream.stats.active_fraction)
    assert fractions[0] == 1
    assert 0 < np.mean(fractions[1:]) < 0.9  # some gates open, some stay shut


@pytest.mark.parametrize("norm", ["rms", "max"])
@pytest.mark.parametrize("dilation", [1, 3, 7])
def test_norms_and_dilations(norm: Literal["rms", "max"], dilation: int) -> None:
    gate = Hold(threshold=0.2, input_threshold=0.1, norm=norm, dilation=dilation)
    _check(seeded(Branches()), _clip, gate)


def test_thresholds_per_layer() -> None:
    _check(seeded(Branches()), _clip, GATE, thresholds={"stem": 0.5, "body": 0.0, "down": 0.05})


def test_only_the_frame_is_held() -> None:
    _check(seeded(Branches()), _clip, Hold(threshold=0, input_threshold=0.1))


def test_only_the_values_inside_are_held() -> None:
    gate = Hold(threshold=0.3, input_threshold=0)
    _check(seeded(Branches()), lambda seed: changing((3, 12, 16), seed=seed, share=0.3), gate)


def test_two_frames() -> None:
    _check(seeded(TwoFrames()), lambda seed: changing((3, 8, 10), (1, 4, 5), seed=seed, share=0.3), GATE)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 3)])
def test_small_maps(size: tuple[int, int]) -> None:
    """Seventeen and thirty-three channels, so that norms run over a vector and a rest."""

    def body(m: Any, x: Tensor) -> Tensor:
        y = F.silu(m.a(x))
        result: Tensor = m.c(F.relu(m.b(y) + y)) + torch.cat([x, m.d(y)], 1)
        return result

    net = Net(
        body, a=nn.Conv2d(5, 17, 3, padding=1), b=nn.Conv2d(17, 17, 3, padding=1), c=nn.Conv2d(17, 33, 1),
        d=nn.Conv2d(17, 28, 1),
    )  # fmt: skip
    _check(net, lambda seed: changing((5, *size), seed=seed, share=0.2), Hold(threshold=0.3, input_threshold=0.2))


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_every_number_of_channels(norm: Literal["rms", "max"]) -> None:
    """Written to the channel, beside those of another map, whether they stay in registers or not."""
    numbers = [1, 2, 7, 8, 15, 16, 23, 31, 32, 36, 47, 63, 64, 65, 80, 90]
    net = Net(
        lambda m, x: torch.cat([F.relu(conv(x)) for conv in m.convs], 1),
        convs=nn.ModuleList(nn.Conv2d(3, number, 1) for number in numbers),
    )
    gate = Hold(threshold=0.3, input_threshold=0.1, norm=norm)
    _check(net, lambda seed: changing((3, 6, 7), seed=seed, share=0.4), gate)


def test_a_refresh_in_between() -> None:
    """The next frames are measured against what the refresh let through."""
    model = seeded(Branches())
    skip, engine = compiled(model, _clip(0)[0], GATE)
    clip = settled(skip, _clip)
    stream, state = engine.stream(), skip.init_state()
    for time, frames in enumerate(clip):
        if time in (4, 5, 9):
            stream.refresh()
        with torch.no_grad():
            expected, state = skip(*frames, state, refresh=time in (4, 5, 9))
        assert_close(flat(stream(*frames)), flat(expected), f"at frame {time}", LOOSE)
        assert stream.stats.refreshed is (time in (0, 4, 5, 9))


def test_a_frame_of_which_too_much_changed_is_a_refresh() -> None:
    """Counted after dilation, over the share that is asked for, strictly: here over nine of twenty pixels."""
    net = Net(lambda m, x: m.a(x), a=nn.Conv2d(1, 2, 1))
    still = torch.zeros(1, 1, 4, 5)
    _, engine = compiled(net, (still + torch.eye(5)[:4],), Hold(input_threshold=0.5), dense_above=0.45)
    found = []
    for changed in ([], [(0, 1)], [(1, 1)], [(1, 1), (1, 2)]):
        frame = still.clone()
        for y, x in changed:
            frame[0, 0, y, x] = 1
        stream = engine.stream()
        stream(still)
        stream(frame)
        found.append((round(20 * stream.stats.active_fraction), stream.stats.refreshed))
    assert found == [(0, False), (6, False), (9, False), (20, True)]


def test_the_scale_of_a_threshold_is_that_of_its_map() -> None:
    """Weights that are 1024 times as large open the same gates (a power of two, so that the roundings are the same)."""
    counts = []
    for scale in (1, 1024):
        net = Net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 4, 3))
        for parameter in net.a.parameters():
            parameter.data.mul_(scale)
        clip = _clip(1)
        stream = compiled(net, clip[0], GATE)[1].stream()
        counts.append([(stream(*frames), stream.stats.active_macs)[1] for frames in clip])
    assert counts[0] == counts[1]
    assert 0 < counts[0][1] < counts[0][0]


def test_verify_takes_an_engine() -> None:
    clip = _clip(2)
    _, engine = compiled(seeded(Branches()), clip[0], GATE)
    found: Verification = verify(engine, clip)
    assert found.still_identical and found.refresh_reproduces
    assert found.refresh_error < TOLERANCE
