"""Learned gates in training: noise, block shape, gradients, and what a clip costs."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipfx import gate_loss, ops
from skipfx import graph as g
from skipfx.errors import FrameError, UsageError
from skipfx.model import SkipModel
from skipfx.options import LEARNED, DynConv, Gate, Gumbel, Hold, InputNorm
from skipfx.training.gates import Noise, Spent, cost, draw, noise_of
from skipfx.training.loss import bounds, budget_loss, open_share
from skipfx.transformation import transform
from tests.networks import Branches, Squeeze, TwoFrames, moving_clip, seeded

NOISE = Noise(temperature=2 / 3, on=True)


def clips(*shape: int, batch: int = 2, length: int = 4) -> Tensor:
    """[B, T, *shape]."""
    parts = [moving_clip(*shape, length=length, seed=seed, noise=0.15) for seed in range(batch)]
    return torch.stack([torch.cat([frame for (frame,) in part]) for part in parts])


def stir(skip: SkipModel, bias: float) -> SkipModel:
    """Gates that are neither all open nor all shut."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in skip.named_parameters():
            if name.rstrip("_").endswith(("gate_weight", "mask_weight", "mask_squeeze")):
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 - 0.1)
            elif name.rstrip("_").endswith(("gate_bias", "mask_bias")):
                value.fill_(bias)
    return skip


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


GATES: list[tuple[Gate, float]] = [
    (Gumbel(), -0.5),
    (Gumbel(block=4, reference="previous"), -1.0),
    (DynConv(target=0.5), -0.3),
    (DynConv(target=0.5, hold=Hold(threshold=0.2, input_threshold=0.02)), -0.3),
    (Hold(threshold=0.2, input_threshold=0.02), 0.0),
    (InputNorm(eps=0.05), 0.0),
]


@pytest.mark.parametrize("gate, bias", GATES, ids=str)
@torch.no_grad()
def test_a_clip_is_its_frames_one_by_one(gate: Gate, bias: float) -> None:
    clip = clips(3, 13, 18)
    skip = stir(transform(seeded(Branches()), (clip[0, :1],), gate=gate), bias)
    found, state = skip.forward_clip(clip), skip.init_state(2)
    assert found["map"].shape[:2] == clip.shape[:2]
    for time in range(clip.shape[1]):
        stepped, state = skip(clip[:, time], state)
        torch.testing.assert_close(found["map"][:, time], stepped["map"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["parts"][0][:, time], stepped["parts"][0], rtol=1e-5, atol=1e-5)
    if isinstance(gate, LEARNED):
        assert 0.05 < open_share(skip) < 0.95


@torch.no_grad()
def test_clips_of_models_with_islands_and_several_inputs() -> None:
    clip = clips(3, 9, 11)
    skip = stir(transform(seeded(Squeeze()), (clip[0, :1],), gate=Gumbel()), -0.5)
    found, state = skip.forward_clip(clip), skip.init_state(2)
    for time in range(clip.shape[1]):
        stepped, state = skip(clip[:, time], state)
        torch.testing.assert_close(found[:, time], stepped, rtol=1e-5, atol=1e-5)
    image, depth = clips(3, 8, 10), clips(1, 4, 5)
    two = transform(seeded(TwoFrames()), (image[0, :1], depth[0, :1]), gate=Gumbel())
    total, mean = two.forward_clip(image, depth)
    assert total.shape == (2, 4, 4, 4, 5) and mean.shape == (2, 4)
    torch.testing.assert_close(mean, total.mean((2, 3, 4)))


def test_noise_is_for_training_alone() -> None:
    clip = clips(3, 13, 18)
    skip = stir(transform(seeded(Branches()), (clip[0, :1],), gate=Gumbel()), 0.0)
    still = [skip.forward_clip(clip)["map"] for _ in range(2)]
    skip.train()
    noisy = [skip.forward_clip(clip)["map"] for _ in range(2)]
    assert torch.equal(*still) and not torch.equal(*noisy)
    stepped = [skip(clip[:, 0], skip.init_state(2))[0]["map"] for _ in range(2)]
    assert torch.equal(*stepped)


def test_the_task_and_the_price_both_reach_gates_and_network() -> None:
    clip = clips(3, 13, 18)
    skip = stir(transform(seeded(Branches()), (clip[0, :1],), gate=Gumbel(block=2)), -0.5).train()
    (skip.forward_clip(clip)["map"].square().mean() + gate_loss(skip)).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in skip.parameters())
    assert all(value.grad.any() for name, value in skip.named_parameters() if "gate_bias" in name)  # type: ignore[union-attr]


def test_training_leaves_the_captured_program_alone() -> None:
    clip, model = clips(3, 13, 18), seeded(Branches())
    skip = transform(model, (clip[0, :1],), gate=Gumbel())
    memory = {value.data_ptr() for value in (*model.parameters(), *skip.program.state_dict.values())}
    assert memory.isdisjoint(value.data_ptr() for value in skip.parameters())


def test_frozen_weights_stay_frozen_and_gates_train() -> None:
    clip = clips(3, 13, 18)
    skip = transform(seeded(Branches()).requires_grad_(False), (clip[0, :1],), gate=Gumbel())
    trainable = [name for name, value in skip.named_parameters() if value.requires_grad]
    assert trainable and all("_gate_" in name for name in trainable)


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


def test_the_schedule_of_dynconv() -> None:
    gate = DynConv(target=0.5, temperatures=(5, 2.5, 1))
    assert [noise_of(gate, True, p).temperature for p in (0, 0.34, 0.67, 1)] == [5, 2.5, 1, 1]
    assert [noise_of(gate, True, p).on for p in (0, 0.79, 0.8, 1)] == [True, True, False, False]
    assert not noise_of(gate, False, 0.0).on and noise_of(Gumbel(), True, 0.5) == NOISE


def test_wrong_clips_are_refused() -> None:
    clip = clips(3, 13, 18)
    skip = transform(seeded(Branches()), (clip[0, :1],), gate=Gumbel())
    with pytest.raises(UsageError, match="no clip went through the model yet"):
        gate_loss(skip)
    with pytest.raises(FrameError, match="2 or more frames, got 1: a residual needs a frame before it"):
        skip.forward_clip(clip[:, :1])
    with pytest.raises(FrameError, match=r"expected clips \[B, T, C, H, W\].*got \[2, 3, 13, 18\]"):
        skip.forward_clip(clip[:, 0])
    with pytest.raises(FrameError, match=r"x: expected.*\[B, 3, 13, 18\]"):
        skip.forward_clip(clip[..., 1:])
    with pytest.raises(UsageError, match="progress"):
        skip.forward_clip(clip, progress=2.0)
    two = transform(seeded(TwoFrames()), (torch.rand(1, 3, 8, 10), torch.rand(1, 1, 4, 5)), gate=Gumbel())
    with pytest.raises(FrameError, match=r"the same B and T; got \[\[2, 4\], \[2, 3\]\]"):
        two.forward_clip(clips(3, 8, 10), clips(1, 4, 5, length=3))
    with pytest.raises(UsageError, match="a hold gate learns nothing"):
        gate_loss(transform(seeded(Branches()), (clip[0, :1],), gate=Hold()))
    assert skip.spent == ()
