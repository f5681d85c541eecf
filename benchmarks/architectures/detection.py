"""Detection and pose networks, in short."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.parts import block, features, separable, stages


class Hourglass(nn.Module):
    """One stack of the hourglass (Newell et al., 2016): recursive, with a skip at every size."""

    def __init__(self, width: int = 32, depth: int = 3, joints: int = 8) -> None:
        super().__init__()
        self.stem = block(3, width, 7, 2)
        self.skips = nn.ModuleList(block(width, width) for _ in range(depth))
        self.before = nn.ModuleList(block(width, width) for _ in range(depth))
        self.after = nn.ModuleList(block(width, width) for _ in range(depth))
        self.head = nn.Conv2d(width, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self._level(self.stem(x), 0))
        return out

    def _level(self, x: Tensor, depth: int) -> Tensor:
        if depth == len(self.skips):
            return x
        inner = self.after[depth](self._level(self.before[depth](F.max_pool2d(x, 2)), depth + 1))
        skip: Tensor = self.skips[depth](x)
        return skip + F.interpolate(inner, scale_factor=2)


class CenterNet(nn.Module):
    """CenterNet (Zhou et al., 2019): deconvolutions and three heads; peaks are maxima of their neighbourhood."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), classes: int = 4) -> None:
        super().__init__()
        self.backbone = stages(widths)
        up = [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in ((128, 64), (64, 32))]
        self.up = nn.Sequential(*(nn.Sequential(u, nn.BatchNorm2d(u.out_channels), nn.ReLU()) for u in up))
        self.heads = nn.ModuleDict(
            {
                n: nn.Sequential(block(32, 32), nn.Conv2d(32, c, 1))
                for n, c in (("heat", classes), ("size", 2), ("offset", 2))
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.up(features(self.backbone, x)[-1])
        found = {name: head(x) for name, head in self.heads.items()}
        heat = torch.sigmoid(found["heat"])
        found["heat"] = heat * (F.max_pool2d(heat, 3, 1, 1) == heat).float()
        return found


class EfficientDet(nn.Module):
    """EfficientDet (Tan et al., 2020): one BiFPN layer with fast normalised fusion, heads shared by all levels."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), width: int = 48, outputs: int = 36) -> None:
        super().__init__()
        self.backbone = stages(widths)
        self.lateral = nn.ModuleList(block(w, width, 1) for w in widths[1:])
        self.weights = nn.Parameter(torch.rand(4, 3))
        self.fuse = nn.ModuleList(separable(width, width) for _ in range(4))
        self.head = nn.Sequential(separable(width, width), separable(width, width), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        p3, p4, p5 = (side(m) for side, m in zip(self.lateral, features(self.backbone, x)[1:], strict=True))
        up4 = self._fused(0, p4, F.interpolate(p5, scale_factor=2))
        out3 = self._fused(1, p3, F.interpolate(up4, scale_factor=2))
        out4 = self._fused(2, p4, up4, F.max_pool2d(out3, 3, 2, 1))
        out5 = self._fused(3, p5, F.max_pool2d(out4, 3, 2, 1))
        return [self.head(m) for m in (out3, out4, out5)]

    def _fused(self, index: int, *maps: Tensor) -> Tensor:
        weights = F.relu(self.weights[index, : len(maps)])
        weights = weights / (weights.sum() + 1e-4)
        out: Tensor = self.fuse[index](F.silu(sum(w * m for w, m in zip(weights, maps, strict=True))))
        return out


class Yolo(nn.Module):
    """A YOLO-style detector: space-to-depth stem, cross-stage blocks, pooling pyramid, decoded boxes."""

    def __init__(self, width: int = 16, outputs: int = 9) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), block(12, width))
        wide = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(block(a, b, stride=2) for a, b in pairwise(wide))
        self.left = nn.ModuleList(block(b, a, 1) for a, b in pairwise(wide))
        self.right = nn.ModuleList(nn.Sequential(block(b, a, 1), block(a, a)) for a, b in pairwise(wide))
        self.mix = block(width * 32, width * 8, 1)
        self.heads = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in (width * 12, width * 8))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for down, left, right in zip(self.down, self.left, self.right, strict=True):
            x = down(x)
            x = torch.cat([left(x), right(x)], 1)
            maps.append(x)
        pooled = [x]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        deep = self.mix(torch.cat(pooled, 1))
        fine = torch.cat([maps[1], F.interpolate(deep, scale_factor=2)], 1)
        return [self._decoded(head(m)) for head, m in zip(self.heads, (fine, deep), strict=True)]

    @staticmethod
    def _decoded(x: Tensor) -> Tensor:
        place, size, score = torch.split(torch.sigmoid(x), [2, 2, x.shape[1] - 4], 1)
        return torch.cat([place * 2 - 0.5, (size * 2) ** 2, score], 1)
