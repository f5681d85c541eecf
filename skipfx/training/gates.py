"""What a learned gate does in training: a noisy, differentiable mask in place of `ops.fires`, and what it costs.

    g = 1[max over the block of (logit + noise) > 0]        noise = the difference of two Gumbel samples, so that
                                                            P(open | logit) = sigmoid(logit)
    dg / dlogit = that of sigmoid((logit + noise) / tau)    straight-through

The noise comes before the maximum over the block, so masks are block-shaped as they are in evaluation.
(Skip-Convolutions, section 3.2; DynConv, section 3.1.)
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx import ops
from skipfx.options import LEARNED, DynConv

TEMPERATURE = 2 / 3  # of Gumbel gates
QUIET_AFTER = 0.8  # share of the training after which the noise is off, so that masks are those of evaluation


@dataclass(frozen=True)
class Spent:
    """What one learned mask let through on one frame, in multiply-accumulates per stream, its own cost included.

    Attributes:
        name: of its node in the graph.
        layer: the module of the convolution or the residual block.
        macs: what the mask cost, with its gradient. []
        dense: all that the mask decides on.
    """

    name: str
    layer: str
    macs: Tensor
    dense: int


@dataclass(frozen=True)
class Noise:
    """How masks are drawn.

    Attributes:
        temperature: of the straight-through gradient.
        on: whether there is noise.
    """

    temperature: float
    on: bool


def noise_of(gate: Any, training: bool, progress: float) -> Noise:
    """The noise of a gate at a point of the training, 0 to 1."""
    noisy = training and isinstance(gate, LEARNED) and progress < QUIET_AFTER
    if isinstance(gate, DynConv):
        stage = min(int(progress * len(gate.temperatures)), len(gate.temperatures) - 1)
        return Noise(gate.temperatures[stage], noisy)
    return Noise(TEMPERATURE, noisy)


class GateRun(fx.Interpreter):
    """Runs one frame of a stream graph with differentiable masks, and notes what they cost."""

    def __init__(self, gm: fx.GraphModule, noise: Noise) -> None:
        super().__init__(gm)
        self.noise = noise
        self.spent: list[Spent] = []

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node; at a learned gate, draws its mask."""
        if n.target is not ops.fires:
            return super().run_node(n)
        score, bias, block = cast(tuple[Tensor, Tensor, int], self.map_nodes_to_values(n.args, n))
        logit = (score + bias).float()
        mask = draw(logit, block, self.noise)
        found = g.record(n)
        macs = torch.stack([cost(mask, decision) for decision in found.decides]).sum() + found.cost
        self.spent.append(Spent(n.name, found.layer, macs, sum(decision.total for decision in found.decides)))
        return mask


def draw(logit: Tensor, block: int, noise: Noise) -> Tensor:
    """A mask of 0 and 1 with the gradient of the soft one. [B, 1, H, W]."""
    if noise.on:
        u = torch.rand_like(logit).clamp_(1e-7, 1 - 1e-7)
        logit = logit + u.log() - (-u).log1p()  # logistic: as the difference of two Gumbel samples
    logit = ops.block_maximum(logit, block)
    soft = torch.sigmoid(logit / noise.temperature)
    return (logit > 0).float() + (soft - soft.detach())  # in this order the value is 0 or 1 exactly


def cost(mask: Tensor, decision: g.Decision) -> Tensor:
    """Multiply-accumulates per stream of a convolution where the mask's positions read it; differentiable. []."""
    for reader in decision.readers:
        mask = ops.readers(mask, *reader).clamp(max=1)
    return mask.sum((1, 2, 3)).mean() * decision.macs
