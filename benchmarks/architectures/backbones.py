"""Backbones that no package holds, in short."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.architectures.parts import block


class HarDBlock(nn.Module):
    """Harmonic dense block (Chao et al., 2019): layer n reads layers n - 2^k for every 2^k that divides n."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [inputs]
        self.links, convs = [], []
        for layer in range(1, layers + 1):
            links = [layer - 2**k for k in range(10) if layer % 2**k == 0 and layer >= 2**k]
            width = int(growth * 1.7 ** (len(links) - 1))
            convs.append(block(sum(widths[link] for link in links), width))
            widths.append(width)
            self.links.append(links)
        self.convs = nn.ModuleList(convs)
        self.kept = [layer for layer in range(1, layers + 1) if layer % 2 or layer == layers]
        self.outputs = sum(widths[layer] for layer in self.kept)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for links, conv in zip(self.links, self.convs, strict=True):
            maps.append(conv(torch.cat([maps[link] for link in links], 1)))
        return torch.cat([maps[layer] for layer in self.kept], 1)


class HarDNet(nn.Module):
    """HarDNet (Chao et al., 2019) as a backbone: three harmonic dense blocks with pooling between."""

    def __init__(self, growth: int = 10) -> None:
        super().__init__()
        parts: list[nn.Module] = [block(3, 16, stride=2), block(16, 32)]
        width = 32
        for layers, outputs in ((4, 64), (8, 96), (8, 128)):
            dense = HarDBlock(width, growth, layers)
            parts += [dense, block(dense.outputs, outputs, 1), nn.MaxPool2d(2)]
            width = outputs
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class CoordAttention(nn.Module):
    """Coordinate attention (Hou et al., 2021): a scale per row and channel, and one per column and channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.rows, self.columns = nn.Conv2d(8, width, 1), nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        both = self.shared(torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2))
        rows, columns = both.split((height, width), 2)
        scale: Tensor = torch.sigmoid(self.rows(rows)) * torch.sigmoid(self.columns(columns.transpose(2, 3)))
        return x * scale


class CoordNet(nn.Module):
    """Inverted residuals with coordinate attention, as in the paper's MobileNet."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 40, 80)) -> None:
        super().__init__()
        parts: list[nn.Module] = [block(3, widths[0], stride=2)]
        for inputs, outputs in pairwise(widths):
            inner = 4 * inputs
            parts += [block(inputs, inner, 1), block(inner, inner, 3, 2, groups=inner), CoordAttention(inner)]
            parts += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class LargeKernelAttention(nn.Module):
    """Large kernel attention (Guo et al., 2022): a 21 x 21 depthwise window in two steps, as a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.far = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.mix(self.far(self.near(x)))
        return out


class VANBlock(nn.Module):
    """Attention and a convolutional perceptron, each behind a batch-norm and beside a scaled skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.scales = nn.ParameterList(torch.full((1, width, 1, 1), 0.5) for _ in range(2))
        self.attention = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.GELU(), LargeKernelAttention(width), nn.Conv2d(width, width, 1)
        )
        self.perceptron = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width), nn.GELU(),
            nn.Conv2d(4 * width, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scales[0] * self.attention(self.norms[0](x))
        out: Tensor = x + self.scales[1] * self.perceptron(self.norms[1](x))
        return out


class VAN(nn.Module):
    """Visual attention network (Guo et al., 2022), small."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise((3, *widths)):
            parts += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), VANBlock(outputs)]
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out
