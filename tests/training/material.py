"""What the tests of learned gates train on."""

import torch
from torch import Tensor

from skipfx.model import SkipModel
from tests.networks import moving_clip


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
