"""What the meter counts, where it is known: nothing on still frames, everything where all changed."""

import pytest
import torch
from torch import nn

from benchmarks.meter import metered
from skipfx.options import Gate, Gumbel, Hold, InputNorm
from skipfx.transformation import transform
from tests.networks import seeded

NET = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1, stride=2))
MACS = 9 * 11 * 4 * 3 * 9 + 5 * 6 * 2 * 4
GATES = 9 * 11 * 3 * 9 + 5 * 6 * 4


@torch.no_grad()
@pytest.mark.parametrize(
    "gate, extra",
    [
        (Hold(threshold=0, input_threshold=0), 0),
        (InputNorm(eps=0), 0),
        (Gumbel(), 2 * GATES),
        (Gumbel(block=4), 2 * GATES),
    ],
    ids=str,
)
def test_still_frames_cost_nothing_and_noise_costs_everything(gate: Gate, extra: int) -> None:
    noise = torch.rand(2, 3, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    skip = transform(seeded(NET), (noise[0, :1],), gate=gate)
    outputs, macs = metered(skip, noise)
    assert macs == MACS + extra
    torch.testing.assert_close(outputs, torch.stack([NET(clip) for clip in noise]))
    still = noise[:, :1].expand_as(noise)
    assert metered(skip, still)[1] == (MACS if isinstance(gate, Gumbel) else 0)  # an untrained gate opens on nothing
