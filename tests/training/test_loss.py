"""The price of open gates: finite differences, what counts, and the budgets of DynConv."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipfx import gate_loss
from skipfx import graph as g
from skipfx.options import DynConv, Gumbel
from skipfx.training.gates import Spent, cost
from skipfx.training.loss import bounds, budget_loss
from skipfx.transformation import transform
from tests.networks import Branches, seeded
from tests.training.material import clips, stir


@pytest.mark.parametrize("block", [1, 4])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(block: Any) -> None:
    # One layer against the frame before: no mask changes what another gate sees. 9 x 11: partial blocks.
    clip = clips(2, 9, 11, batch=1, length=3)
    gate = Gumbel(block=block, reference="previous")
    skip = stir(transform(seeded(nn.Conv2d(2, 3, 3, padding=1)), (clip[0, :1],), gate=gate), -0.2)
    skip.train()
    weight, bias = (dict(skip.named_parameters())[f"graph_module._gate_{name}"] for name in ("weight", "bias"))
    torch.manual_seed(5)
    skip.forward_clip(clip)
    gate_loss(skip).backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(5)
    noise = [torch.logit(torch.rand(9, 11)).double().numpy() for _ in range(3)]

    def relaxed(a: Any, b: float) -> float:
        """The loss with relaxed masks, float64, window by window: shares of the cost of the frames 2 and 3."""
        total = 0.0
        for time in (1, 2):
            padded = np.pad((clip[0, time] - clip[0, time - 1]).abs().double().numpy(), ((0, 0), (1, 1), (1, 1)))
            noisy = np.array([[(a * padded[:, i : i + 3, j : j + 3]).sum() for j in range(11)] for i in range(9)])
            noisy += b + noise[time]
            for i in range(0, 9, block):
                for j in range(0, 11, block):
                    part = noisy[i : i + block, j : j + block]
                    total += part.size / (1 + np.exp(-part.max() / (2 / 3))) * 3 * 2 * 9
        return total / 2 / (9 * 11 * 3 * 2 * 9)

    start, step = (weight[0].detach().double().numpy(), float(bias.detach())), 1e-6
    assert weight.grad is not None and bias.grad is not None
    for index in np.ndindex(*start[0].shape):
        moved = np.zeros_like(start[0])
        moved[index] = step
        slope = (relaxed(start[0] + moved, start[1]) - relaxed(start[0] - moved, start[1])) / (2 * step)
        # float32 against float64
        assert float(weight.grad[0][index]) == pytest.approx(slope, rel=1e-3, abs=1e-6)
    slope = (relaxed(start[0], start[1] + step) - relaxed(start[0], start[1] - step)) / (2 * step)
    assert float(bias.grad) == pytest.approx(slope, rel=1e-3)


def test_the_task_and_the_price_both_reach_gates_and_network() -> None:
    clip = clips(3, 13, 18)
    skip = stir(transform(seeded(Branches()), (clip[0, :1],), gate=Gumbel(block=2)), -0.5).train()
    (skip.forward_clip(clip)["map"].square().mean() + gate_loss(skip)).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in skip.parameters())
    assert all(value.grad.any() for name, value in skip.named_parameters() if "gate_bias" in name)  # type: ignore[union-attr]


def test_the_cost_sees_dilated_positions_and_the_unit_itself() -> None:
    mask = torch.zeros(1, 1, 6, 7)
    mask[0, 0, 0, 0] = mask[0, 0, 3, 3] = 1
    mask.requires_grad_()
    decision = g.Decision(10, (6, 7), (((6, 7), (3, 3), (1, 1), (1, 1), (1, 1)),))
    found = cost(mask, decision)
    assert float(found.detach()) == 10 * (4 + 9)  # a corner has four positions in its window
    found.backward()  # type: ignore[no-untyped-call]
    assert mask.grad is not None and mask.grad.all()
    clip = clips(4, 9, 11)
    skip = transform(seeded(Add()), (clip[0, :1],), gate=DynConv(target=0.5))
    skip.forward_clip(clip)
    item = skip.spent[0][0]
    assert item.dense == 9 * 11 * 4 * 4 * 9 and float(item.macs.detach()) == item.dense + 9 * 11 * 4


class Add(nn.Module):
    """One convolution beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return x + self.conv(x)


@pytest.mark.parametrize(
    "progress, upper, lower", [(0, 0.3, 0.3), (0.1, 0.45, 0.24), (0.2, 0.76, 0.10), (0.33, 1, 0), (1, 1, 0)]
)
def test_bounds_are_those_of_the_paper(progress: float, upper: float, lower: float) -> None:
    assert bounds(0.3, progress) == pytest.approx((upper, lower), abs=0.006)


def test_the_budget_is_one_for_the_network_and_two_for_each_block() -> None:
    spent = [Spent("a", "", torch.tensor(80.0), 100), Spent("b", "", torch.tensor(30.0), 300)]
    pinned = float(budget_loss([spent, spent], 0.5, progress=0.0))
    assert pinned == pytest.approx((110 / 400 - 0.5) ** 2 + ((0.8 - 0.5) ** 2 + (0.5 - 0.1) ** 2) / 2)
    assert float(budget_loss([spent], 0.5, progress=0.5)) == pytest.approx((110 / 400 - 0.5) ** 2)
