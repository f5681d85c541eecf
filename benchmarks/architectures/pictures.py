"""Networks from pictures to pictures, in short: super-resolution, depth, matting."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from benchmarks.architectures.parts import block, features, separable, stages


class ESPCN(nn.Module):
    """ESPCN (Shi et al., 2016): convolutions at the small size, then pixel shuffle."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
            nn.Conv2d(32, factor**2, 3, padding=1), nn.PixelShuffle(factor),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class FSRCNN(nn.Module):
    """FSRCNN (Dong et al., 2016): shrink, map, expand, and a transposed convolution at the end."""

    def __init__(self, wide: int = 56, narrow: int = 12, layers: int = 4) -> None:
        super().__init__()
        maps = [m for _ in range(layers) for m in (nn.Conv2d(narrow, narrow, 3, padding=1), nn.PReLU(narrow))]
        self.body = nn.Sequential(
            nn.Conv2d(1, wide, 5, padding=2), nn.PReLU(wide), nn.Conv2d(wide, narrow, 1), nn.PReLU(narrow), *maps,
            nn.Conv2d(narrow, wide, 1), nn.PReLU(wide), nn.ConvTranspose2d(wide, 1, 9, 2, 4, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class WDSR(nn.Module):
    """WDSR (Yu et al., 2018), an EDSR with wide activations and weight normalisation, and a global skip."""

    mean: Tensor

    def __init__(self, width: int = 24, layers: int = 4, factor: int = 2) -> None:
        super().__init__()
        normed, wide = parametrizations.weight_norm, 4 * width
        self.head = normed(nn.Conv2d(3, width, 3, padding=1))
        self.body = nn.ModuleList(
            nn.Sequential(normed(nn.Conv2d(width, wide, 3, 1, 1)), nn.ReLU(), normed(nn.Conv2d(wide, width, 3, 1, 1)))
            for _ in range(layers)
        )
        self.tail = normed(nn.Conv2d(width, 3 * factor**2, 3, padding=1))
        self.skip = normed(nn.Conv2d(3, 3 * factor**2, 5, padding=2))
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean
        y = self.head(x)
        for layer in self.body:
            y = y + layer(y)
        out: Tensor = F.pixel_shuffle(self.tail(y) + self.skip(x), self.factor) + self.mean
        return out


class FastDepth(nn.Module):
    """FastDepth (Wofk et al., 2019): depthwise decoder with nearest up-sampling and additive skips."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.encoder = stages(widths)
        pairs = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))
        self.decoder = nn.ModuleList(separable(a, b) for a, b in pairs)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        *skips, y = features(self.encoder, x)
        for layer, skip in zip(self.decoder, reversed(skips), strict=True):
            y = F.interpolate(layer(y), scale_factor=2.0, mode="nearest") + skip
        return F.softplus(F.interpolate(self.head(y), scale_factor=2.0, mode="bilinear", align_corners=True)) + 0.1


class Matting(nn.Module):
    """A MODNet-style matting network (Ke et al., 2022): semantic, detail and fusion branches; alpha over a backdrop."""

    backdrop: Tensor

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.backbone = stages(widths)
        self.semantic = nn.Sequential(block(widths[2], 32, 5), nn.Conv2d(32, 1, 1))
        self.detail = nn.Sequential(block(widths[0] + 3, 16), nn.Conv2d(16, 1, 3, padding=1, padding_mode="reflect"))
        fuse = nn.Conv2d(5, 16, 3, padding=1, padding_mode="replicate")
        self.fuse = nn.Sequential(fuse, nn.ReLU(), nn.Conv2d(16, 1, 1))
        self.register_buffer("backdrop", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine, _, deep = features(self.backbone, x)
        coarse = torch.sigmoid(self.semantic(deep))
        size = x.shape[2:]
        fine = F.interpolate(fine, size=size, mode="bilinear", align_corners=False)
        detail = torch.sigmoid(self.detail(torch.cat([fine, x], 1)))
        wide = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
        alpha = torch.sigmoid(self.fuse(torch.cat([wide, detail, x], 1)))
        return {"semantic": coarse, "alpha": alpha, "picture": alpha * x + (1 - alpha) * self.backdrop}
