"""Segmentation networks, in short."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.parts import block, features, stages


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015) with padding, transposed convolutions and skip connections."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), classes: int = 4) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.first = nn.Sequential(block(3, widths[0]), block(widths[0], widths[0]))
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), block(a, b), block(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(nn.Sequential(block(2 * a, a), block(a, a)) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        out: Tensor = self.head(x)
        return out


class FPN(nn.Module):
    """Panoptic FPN (Kirillov et al., 2019): a feature pyramid, merged at the finest level."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), width: int = 64, classes: int = 4) -> None:
        super().__init__()
        self.backbone = stages(widths)
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [lateral(m) for lateral, m in zip(self.lateral, features(self.backbone, x), strict=True)]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], scale_factor=2.0, mode="nearest")
        maps = [smooth(m) for smooth, m in zip(self.smooth, maps, strict=True)]
        total = sum(F.interpolate(m, size=maps[0].shape[2:], mode="bilinear", align_corners=False) for m in maps)
        out: Tensor = F.interpolate(self.head(total), scale_factor=2, mode="bilinear", align_corners=False)
        return out


class PSPNet(nn.Module):
    """PSPNet (Zhao et al., 2017): pyramid pooling over the whole picture on a dilated backbone."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128), classes: int = 4) -> None:
        super().__init__()
        self.backbone = stages(widths)
        wide = widths[-1]
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), block(wide, wide // 4, 1)) for n in (1, 2, 4))
        self.head = nn.Sequential(block(wide + 3 * (wide // 4), 64), nn.Dropout2d(0.1), nn.Conv2d(64, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        deep = features(self.backbone, x)[-1]
        wide = [F.interpolate(p(deep), size=deep.shape[2:], mode="bilinear", align_corners=True) for p in self.pools]
        out: Tensor = F.interpolate(self.head(torch.cat([deep, *wide], 1)), size=x.shape[2:], mode="bilinear")
        return out
