"""Reductions over channels on a GPU: sums, extremes, the largest channel's number, norms and softmaxes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx import build
from skipfx.passes.lower import lower
from skipfx.plan import Plan
from skipfx.transformation import transform
from tests.runtime.check import EXACT, Net, changing, reference
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.test_step import assert_equal_streams, outputs


def _reduced(m: Any, x: Tensor) -> list[Tensor]:
    y = m.wide(x)
    found = [F.softmax(y, 1), F.log_softmax(y, 1), y.amax(1, keepdim=True), y.amin(1, keepdim=True)]
    return [*found, y.sum(1, keepdim=True), y.mean(1, keepdim=True), m.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)]


def test_reductions_over_channels(shuffled: Place) -> None:
    """Of more channels than threads that share a position, and not a multiple of them; more positions than a tile."""
    net = Net(_reduced, wide=nn.Conv2d(3, 37, 1), norm=nn.LayerNorm(37, elementwise_affine=False))
    assert_equal_streams(shuffled, net, changing((3, 7, 13)), EXACT)


def test_the_number_of_the_largest_channel(shuffled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of several that are equally large. Without the island that makes an integer of it."""
    net = Net(lambda m, x: torch.round(m.wide(x)).argmax(1, keepdim=True), wide=nn.Conv2d(3, 37, 1))
    clip = changing((3, 7, 13))
    skip = transform(net, clip[0], gate=EXACT)

    def without_island(gm: fx.GraphModule) -> Plan:
        plan = lower(gm)
        return replace(plan, segments=(replace(plan.segments[0], island=None),), outputs=((0, 0),))

    monkeypatch.setattr(build, "lower", without_island)
    stream = shuffled.engine(skip).stream()
    ties = 0
    for frames, (expected,) in zip(clip, reference(skip, clip), strict=True):
        (found,) = outputs(shuffled, stream, frames)
        assert np.array_equal(found, expected)
        rounded = torch.round(net.wide(frames[0]))
        ties += int(((rounded == rounded.amax(1, keepdim=True)).sum(1) > 1).sum())
    assert ties > 50
