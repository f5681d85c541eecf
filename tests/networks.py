"""Small networks and clips with a fixed seed, one per thing that a test needs to be there."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Frames = tuple[Tensor, ...]


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch-norm statistics, in inference mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - (0.0 if "running_var" in name else 0.5))
        if "running_var" in name:
            tensor.add_(0.5)
    return module.eval()


def moving_clip(*shape: int, length: int = 8, seed: int = 0, noise: float = 0.01) -> list[Frames]:
    """A patch that moves over a still picture with a little noise; frames [1, *shape]."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.rand(1, *shape, generator=generator)
    patch = torch.rand(1, shape[0], 3, 3, generator=generator)
    clip: list[Frames] = []
    for time in range(length):
        frame = still + noise * (torch.rand(still.shape, generator=generator) - 0.5)
        top, left = time % max(1, shape[1] - 3), (2 * time) % max(1, shape[2] - 3)
        region = frame[:, :, top : top + 3, left : left + 3]
        region.copy_(patch[:, :, : region.shape[2], : region.shape[3]])
        clip.append((frame,))
    return clip


class Branches(nn.Module):
    """Convolution, batch-norm, residual add, pool, resize, concatenation; two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = F.relu(self.norm(self.stem(x)))
        y = F.silu(x + self.body(x))
        small = F.leaky_relu(self.down(F.max_pool2d(y, 3, 1, 1)), 0.1)
        up = F.interpolate(small, scale_factor=2)[:, :, : x.shape[2], : x.shape[3]]
        return {"map": self.head(torch.cat([y, up], 1)), "parts": [torch.sigmoid(small)]}


class Squeeze(nn.Module):
    """Scales channels by their contrast over the picture: a dense island between two local parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.gate = nn.Linear(6, 6)
        self.last = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        scale = torch.sigmoid(self.gate(y.std((2, 3))))
        out: Tensor = self.last(y * scale[:, :, None, None])
        return out


class TwoFrames(nn.Module):
    """Two inputs of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.small = nn.Conv2d(1, 4, 1)

    def forward(self, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        total = F.relu(self.large(image) + self.small(depth))
        return total, total.mean()


def conv(**options: Any) -> nn.Module:
    """One convolution."""
    return seeded(nn.Conv2d(**options))


def branches_clip(length: int = 8) -> list[Frames]:
    """A clip for `Branches`."""
    return moving_clip(3, 12, 16, length=length)
