"""What the optimizer is given: groups of parameters, and rates that fall."""

import pytest
import torch
from torch import nn

from skipfx import parameter_groups
from skipfx.errors import UsageError
from skipfx.options import DynConv, Gumbel
from skipfx.training.rates import falling
from skipfx.transformation import transform
from tests.networks import Branches, seeded
from tests.training.material import clips


def test_frozen_weights_stay_frozen_and_gates_train() -> None:
    clip = clips(3, 13, 18)
    skip = transform(seeded(Branches()).requires_grad_(False), (clip[0, :1],), gate=Gumbel())
    trainable = [name for name, value in skip.named_parameters() if value.requires_grad]
    assert trainable and all("_gate_" in name for name in trainable)


def test_a_step_of_adam_moves_weights_and_bias_of_a_gate_alike() -> None:
    clip = clips(64, 9, 11)
    skip = transform(seeded(nn.Conv2d(64, 2, 3, padding=1)), (clip[0, :1],), gate=Gumbel())
    parameters = {name.rpartition("_")[2]: value for name, value in skip.named_parameters() if "_gate_" in name}
    before = {name: value.detach().clone() for name, value in parameters.items()}
    residual = torch.rand(before["weight"].shape)
    residual *= 10 / float((before["weight"] * residual).sum())  # at a logit of ten
    optimizer = torch.optim.Adam(parameter_groups(skip, rate=0, gate_rate=0.01))
    ((parameters["weight"] * residual).sum() + parameters["bias"].sum()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {name: (value.detach() - before[name]) for name, value in parameters.items()}
    assert float(moved["bias"]) == pytest.approx(-0.01, rel=1e-3)
    assert float((moved["weight"] * residual).sum()) == pytest.approx(-0.01, rel=1e-3)


def test_every_parameter_has_a_rate_and_mask_units_that_of_gates() -> None:
    clip = clips(3, 13, 18)
    skip = transform(seeded(nn.Sequential(Residual())), (clip[0, :1],), gate=DynConv(target=0.5, squeeze=True))
    groups = parameter_groups(skip, rate=0.25, gate_rate=0.5)
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    assert {name: rates[id(value)] for name, value in skip.named_parameters()} == {
        name: 0.5 if "_mask_" in name else 0.25 for name, _ in skip.named_parameters()
    }


class Residual(nn.Module):
    """A convolution beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.conv(x)
        return y


def test_nothing_to_train_is_refused() -> None:
    skip = transform(seeded(Branches()), (clips(3, 13, 18)[0, :1],), gate=Gumbel()).requires_grad_(False)
    with pytest.raises(UsageError, match="all are frozen"):
        parameter_groups(skip, rate=1e-3, gate_rate=1e-2)


@pytest.mark.parametrize("progress, factor", [(0, 1), (0.8, 1), (0.9, 0.5), (1, 0)])
def test_rates_fall_while_there_is_no_noise(progress: float, factor: float) -> None:
    assert falling(progress) == pytest.approx(factor)
