"""What a clip's open gates cost, as a loss: `loss = task(outputs) + skipfx.gate_loss(skip)`."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skipfx.errors import UsageError
from skipfx.options import LEARNED, DynConv
from skipfx.training.gates import Spent

if TYPE_CHECKING:
    from skipfx.model import SkipModel

RELAXED = 0.33  # share of the training after which the bounds of single blocks are gone


def gate_loss(skip: "SkipModel") -> Tensor:
    """The price of the clip that went through `SkipModel.forward_clip` last; differentiable. [].

    Gumbel gates (Skip-Convolutions, section 3.2): the mean over the frames 2..T of sum_l m_l E[g_l] / sum_l m_l, with
    the masks as they were drawn for the expectation. m_l are the multiply-accumulates of the layer; whole blocks of it
    count, and so does the gate's own cost. It is a share of the dense cost, so that a factor on it means the same for
    every network.

    DynConv (section 3.3): (C / C_dense - target)^2, plus the mean over the blocks of max(0, f - u)^2 + max(0, l - f)^2.
    C and f are shares of the blocks' dense cost, dilated positions and mask units included. The bounds u and l start at
    the target and reach 1 and 0 after a third of the training, as `progress` of `forward_clip` tells.

    Raises:
        UsageError: the model has no learned gate, or no clip went through it yet.
    """
    frames = _spent(skip)
    if isinstance(skip.options.gate, DynConv):
        return budget_loss(frames, skip.options.gate.target, skip.progress)
    return _share(_flat(frames[1:]))


def budget_loss(frames: Sequence[Sequence[Spent]], target: float, progress: float) -> Tensor:
    """The three losses of DynConv on what the masks of every frame spent."""
    spent = _flat(frames)
    shares = []
    for name in dict.fromkeys(item.name for item in spent):
        shares.append(_share([item for item in spent if item.name == name]))
    share, network = torch.stack(shares), _share(spent)
    upper, lower = bounds(target, progress)
    outside = (share - upper).clamp(min=0).square() + (lower - share).clamp(min=0).square()
    return (network - target).square() + outside.mean()


def bounds(target: float, progress: float) -> tuple[float, float]:
    """The upper and the lower bound on a block's share, annealed by cosine (DynConv, section 3.3)."""
    strength = math.cos(math.pi / 2 * min(progress / RELAXED, 1)) ** 2
    return 1 - strength * (1 - target), strength * target


def open_share(skip: "SkipModel") -> float:
    """The share of the gated cost that the last clip's masks let through, without its first frame if there are more.

    Raises:
        UsageError: as `gate_loss` does.
    """
    frames = _spent(skip)
    return float(_share(_flat(frames[1:] or frames)).detach())


def _spent(skip: "SkipModel") -> Sequence[Sequence[Spent]]:
    if not isinstance(skip.options.gate, LEARNED):
        name = skip.options.gate.name
        raise UsageError(f"a {name} gate learns nothing: transform with skipfx.Gumbel or skipfx.DynConv")
    if not skip.spent:
        raise UsageError("no clip went through the model yet: call skip.forward_clip(clip) first")
    return skip.spent


def _flat(frames: Iterable[Sequence[Spent]]) -> list[Spent]:
    return [item for frame in frames for item in frame]


def _share(spent: Sequence[Spent]) -> Tensor:
    return torch.stack([item.macs for item in spent]).sum() / sum(item.dense for item in spent)
