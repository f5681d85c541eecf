"""HRNet-W32 for pose (Sun et al., arXiv:1902.09212, section 3), as Skip-Convolutions measures it: 256 x 192, 17 joints.

Its layers sum up to 7.65 billion multiply-accumulates; the paper states 7.1 for them, and the same 28.5 M parameters.
Branches of 1/4, 1/8, 1/16 and 1/32 of the picture run side by side; after every module each takes the sum of all.
"""

from torch import Tensor, nn

from benchmarks.networks.blocks import ConvNorm
from benchmarks.networks.resnet import Bottleneck

CHANNELS = (32, 64, 128, 256)
STAGES = ((1, 2), (4, 3), (3, 4))  # modules, branches
BLOCKS, JOINTS = 4, 17


class Basic(nn.Module):
    """Two 3x3 convolutions and the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConvNorm(channels, channels, 3), ConvNorm(channels, channels, 3, activation=None))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y: Tensor = self.activation(self.layers(x) + x)
        return y


class Exchange(nn.Module):
    """BLOCKS blocks per branch; then `given` branches, each the sum of all, brought to its size and channels."""

    def __init__(self, branches: int, given: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Basic(channels) for _ in range(BLOCKS))) for channels in CHANNELS[:branches]
        )
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(source, target) for source in range(branches)) for target in range(given)
        )
        self.activation = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map per branch to one map per branch."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        results = []
        for paths in self.paths:
            assert isinstance(paths, nn.ModuleList)
            moved = [path(x) for path, x in zip(paths, maps, strict=True)]
            total = moved[0]
            for other in moved[1:]:
                total = total + other
            results.append(self.activation(total))
        return results


class HRNetW32(nn.Module):
    """Picture [1, 3, 256, 192] to heat maps [1, 17, 64, 48]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNorm(3, 64, 3, 2), ConvNorm(64, 64, 3, 2), Bottleneck(64, 64), *(Bottleneck(256, 64) for _ in range(3))
        )
        self.first = ConvNorm(256, CHANNELS[0], 3)
        self.steps = nn.ModuleList(
            ConvNorm(256 if index == 0 else CHANNELS[index], CHANNELS[index + 1], 3, 2) for index in range(3)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Exchange(branches, 1 if branches == 4 and index == modules - 1 else branches)
                for index in range(modules)
            )
            for modules, branches in STAGES
        )
        self.head = nn.Conv2d(CHANNELS[0], JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[1, 3, H, W] -> [1, 17, H / 4, W / 4]."""
        x = self.stem(x)
        maps = [self.first(x)]
        for step, stage in zip(self.steps, self.stages, strict=True):
            maps = [*maps, step(x)]
            assert isinstance(stage, nn.ModuleList)
            for module in stage:
                maps = module(maps)
            x = maps[-1]
        y: Tensor = self.head(maps[0])
        return y


def _path(source: int, target: int) -> nn.Module:
    """From the branch `source` to the size and the channels of the branch `target`."""
    taken, given = CHANNELS[source], CHANNELS[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(ConvNorm(taken, given, activation=None), nn.Upsample(scale_factor=2 ** (source - target)))
    halvings = [ConvNorm(taken, taken, 3, 2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, ConvNorm(taken, given, 3, 2, None))
