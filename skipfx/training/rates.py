"""Learning rates of a network and of its gates, for optimizers whose steps are as large as the rate, such as Adam."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from skipfx.errors import UsageError
from skipfx.passes.gate_convolutions import is_gate_parameter
from skipfx.training.gates import QUIET_AFTER

if TYPE_CHECKING:
    from skipfx.model import SkipModel


def parameter_groups(skip: "SkipModel", rate: float, gate_rate: float) -> list[dict[str, Any]]:
    """The trainable parameters with their learning rates, as optimizers of PyTorch take them.

    Args:
        skip: a model with learned gates.
        rate: of the network.
        gate_rate: of the gates. A bias, which is a logit, moves by it, and so do the weights of a mask unit. A weight
            of a Gumbel gate, one of C_in kh kw that are added up, moves by a tenth of that share of their mean size: so
            where they add up to ten logits, all of them together move the logit as far as the bias does.

    Raises:
        UsageError: all parameters are frozen.
    """
    named = [(name, value) for name, value in skip.named_parameters() if value.requires_grad]
    if not named:
        raise UsageError("no parameter of the model can be trained: all are frozen; call skip.requires_grad_()")
    network = [value for name, value in named if not is_gate_parameter(name)]
    gates = [(value, gate_rate * _unit(name, value)) for name, value in named if is_gate_parameter(name)]
    return [{"params": network, "lr": rate}, *({"params": [value], "lr": own} for value, own in gates)]


def falling(progress: float) -> float:
    """The factor on all rates: 1 while masks are noisy, then straight down to 0. Masks without noise have to settle."""
    return min(1.0, (1 - progress) / (1 - QUIET_AFTER))


def _unit(name: str, value: Tensor) -> float:
    """What a step of a gate's parameter is measured in."""
    size = float(value.detach().abs().mean())
    return size / 10 if size > 0 and name.rstrip("_").endswith("gate_weight") else 1.0
