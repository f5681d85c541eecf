"""A task that fits on two cores: a small network segments walkers and vehicles before four fixed cameras."""

import copy
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.demo.network import ConvBlock, Residual, to_input
from skipfx.demo.scene import CLASSES, PERIOD, TRAINING_SEED, Scene

HEIGHT, WIDTH, NOISE = 64, 96, 2.0
CAMERAS = range(TRAINING_SEED, TRAINING_SEED + 4)
TRAINING, HELD_OUT = range(16), range(100, 103)  # periods of a scene: each has walkers and vehicles of its own
LENGTH = 30  # frames of each

Data = tuple[Tensor, Tensor]
Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


class SmallNet(nn.Module):
    """A stem at stride 2, two residual blocks there and two at stride 4, both merged. RGB in 0..1 to class logits."""

    def __init__(self, width: int = 1) -> None:
        """Build the network with random weights, `width` times as many channels."""
        super().__init__()
        relu, fine, deep = nn.ReLU(), 16 * width, 24 * width
        self.stem = nn.Sequential(ConvBlock(3, fine, relu, stride=2), Residual(fine, relu), Residual(fine, relu))
        self.deep = nn.Sequential(ConvBlock(fine, deep, relu, stride=2), Residual(deep, relu), Residual(deep, relu))
        self.merge = ConvBlock(deep + fine, fine, relu)
        self.head = nn.Conv2d(fine, len(CLASSES), 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Map frames [B, 3, H, W] to logits [B, len(CLASSES), H, W]."""
        fine = self.stem(frame)
        up = F.interpolate(self.deep(fine), scale_factor=2)
        logits: Tensor = self.head(self.merge(torch.cat((up, fine), 1)))
        return F.interpolate(logits, scale_factor=2, mode="bilinear")


@cache
def clips_of(periods: range) -> Data:
    """Clips [N, LENGTH, 3, H, W] in 0..1 and classes [N, LENGTH, H, W] of every camera."""
    clips, masks = [], []
    for seed in CAMERAS:
        scene = Scene(HEIGHT, WIDTH, seed, walkers=4, noise=NOISE)
        for period in periods:
            frames, truth = zip(*(scene.frame(period * PERIOD + time) for time in range(LENGTH)), strict=True)
            clips.append(to_input(np.stack(frames)))
            masks.append(torch.from_numpy(np.stack(truth)).long())
    return torch.stack(clips), torch.stack(masks)


def batches(data: Data, seed: int, size: int, length: int) -> Iterator[Data]:
    """Random parts of the clips, without end."""
    rng, (clips, masks) = np.random.default_rng(seed), data
    while True:
        which = [(int(rng.integers(len(clips))), int(rng.integers(clips.shape[1] - length + 1))) for _ in range(size)]
        yield (
            torch.stack([clips[item, start : start + length] for item, start in which]),
            torch.stack([masks[item, start : start + length] for item, start in which]),
        )


def segmentation_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of logits [B, T, C, H, W] and classes [B, T, H, W]."""
    return F.cross_entropy(outputs.flatten(0, 1), target.flatten(0, 1))


def trained(net: nn.Module, data: Iterator[Data], steps: int, rate: float, schedule: Schedule) -> nn.Module:
    """The network after `steps` batches, trained in the mode it is in; the one given stays as it is."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    rates = schedule(optimizer)
    for _, (clips, target) in zip(range(steps), data, strict=False):
        loss = segmentation_loss(net(clips.flatten(0, 1))[None], target.flatten(0, 1)[None])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
    return net.eval()
