"""Masks as they are drawn in training: probabilities, blocks, gradients, and the schedule of the noise."""

import numpy as np
import pytest
import torch

from skipfx import ops
from skipfx.options import DynConv, Gumbel
from skipfx.training.gates import Noise, draw, noise_of

NOISE = Noise(temperature=2 / 3, on=True)


@pytest.mark.parametrize("logit", [0.0, 1.0, -2.0])
def test_a_gate_opens_with_the_probability_of_its_logit(logit: float) -> None:
    torch.manual_seed(0)
    share = float(draw(torch.full((1, 1, 400, 500), logit), 1, NOISE).mean())
    # a mean of 200,000 draws: standard error below 0.0012
    assert share == pytest.approx(torch.sigmoid(torch.tensor(logit)).item(), abs=0.005)


@pytest.mark.parametrize("noise", [NOISE, Noise(1.0, on=False)])
@pytest.mark.parametrize("block", [2, 4, 8])
def test_masks_are_made_of_blocks_in_training_as_afterwards(noise: Noise, block: int) -> None:
    torch.manual_seed(1)
    logit = 9 * torch.randn(2, 1, 13, 19)
    mask = draw(logit - ops.block_maximum(logit, block).median() + 0.1, block, noise)[:, 0].numpy()
    assert set(np.unique(mask)) == {0.0, 1.0}
    for i in range(0, 13, block):
        for j in range(0, 19, block):
            part = mask[:, i : i + block, j : j + block]
            assert (part == part[:, :1, :1]).all()


def test_the_gradient_is_that_of_the_relaxed_mask() -> None:
    logit = torch.randn(1, 1, 5, 6, requires_grad=True)
    weights = torch.randn(1, 1, 5, 6)
    torch.manual_seed(2)
    (draw(logit, 1, NOISE) * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(2)
    u = torch.rand(1, 1, 5, 6)
    soft = torch.sigmoid((logit.detach() + (u / (1 - u)).log()) / (2 / 3))
    torch.testing.assert_close(logit.grad, weights * soft * (1 - soft) / (2 / 3), rtol=1e-4, atol=1e-6)


def test_the_schedule_of_dynconv() -> None:
    gate = DynConv(target=0.5, temperatures=(5, 2.5, 1))
    assert [noise_of(gate, True, p).temperature for p in (0, 0.34, 0.67, 1)] == [5, 2.5, 1, 1]
    assert [noise_of(gate, True, p).on for p in (0, 0.79, 0.8, 1)] == [True, True, False, False]
    assert not noise_of(gate, False, 0.0).on and noise_of(Gumbel(), True, 0.5) == NOISE
