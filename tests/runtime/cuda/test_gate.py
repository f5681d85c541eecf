"""Norm gates, Gumbel gates and DynConv masks on a GPU: what PyTorch computes, where the CPU engine computes it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.options import DynConv, Gate, Gumbel, InputNorm, OutputNorm
from tests.networks import seeded
from tests.runtime.check import assert_same
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.test_lanes import of_lane
from tests.runtime.cuda.test_step import assert_equal_steps, outputs
from tests.runtime.test_gates import HELD, gated

GATES: list[tuple[Gate, int]] = [
    (InputNorm(eps=0.03), 1),
    (InputNorm(eps=0.03, reference="previous"), 4),
    (OutputNorm(eps=0.15), 2),
    (Gumbel(block=8), 1),
    (Gumbel(block=4, reference="previous"), 1),
    (DynConv(target=0.5), 1),
    (DynConv(target=0.5, hold=HELD), 1),
]


class Block(nn.Module):
    """A residual block behind a strided convolution; sizes that no block of a gate divides, and few kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 18, 3, 2, 1)
        self.narrow, self.wide = nn.Conv2d(18, 6, 1), nn.Conv2d(6, 18, 3, padding=2, dilation=2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return F.relu(x + self.wide(F.relu(self.narrow(x))))


BLOCK = seeded(Block())


@pytest.mark.parametrize("gate, block", GATES, ids=lambda value: getattr(value, "name", value))
def test_gates_decide_as_on_a_cpu(shuffled: Place, gate: Gate, block: Any) -> None:
    skip, clip = gated(BLOCK, gate, block)
    assert_equal_steps(shuffled, skip, clip)


@pytest.mark.parametrize("gate", [Gumbel(block=4), DynConv(target=0.5)], ids=["gumbel", "dynconv"])
def test_a_gated_lane_is_a_stream_of_its_own(shuffled: Place, gate: Gate) -> None:
    """Of three, of which one is refreshed and one misses frames."""
    skip, clip = gated(BLOCK, gate)
    engine = shuffled.engine(skip)
    lanes, streams = engine.lanes(3), [engine.stream() for _ in range(3)]
    for time, only in enumerate([None, [0, 2], [0, 1], [0, 1, 2]]):
        if time == 2:
            lanes.streams[1].refresh()
            streams[1].refresh()
        taken = [clip[(time + lane) % len(clip)] for lane in range(3)]
        found = lanes(shuffled.frame(torch.cat([frames[0] for frames in taken])), only=only)
        for lane in only or range(3):
            assert_same(of_lane(found, lane), outputs(shuffled, streams[lane], taken[lane]), f"{lane} at {time}")
        assert lanes.stats == tuple(stream.stats for stream in streams)
