"""EfficientDet-D0 (Tan et al., arXiv:1911.09070, sections 3 and 4) on EfficientNet-B0 (arXiv:1905.11946, table 1).

The weights of BiFPN's sums are what they are at the start of training, equal. Strided windows are padded evenly.
"""

from torch import Tensor, nn

from benchmarks.networks.blocks import ConvNorm, InvertedResidual, SqueezeExcite

# expansion, kernel, stride, given channels, blocks; the maps after the 3rd, 5th and 7th stage are P3, P4 and P5
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
TAPS, TAPPED = (2, 4, 6), (40, 112, 320)
CHANNELS, CELLS, HEAD_DEPTH, LEVELS = 64, 3, 3, 5
ANCHORS, CLASSES = 9, 90


class Separable(nn.Sequential):
    """3x3 per channel, then 1x1 with bias."""

    def __init__(self, given: int = CHANNELS) -> None:
        super().__init__(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False), nn.Conv2d(CHANNELS, given, 1)
        )


class Backbone(nn.Module):
    """EfficientNet-B0 without its head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2, nn.SiLU)
        stages, taken = [], 32
        for expansion, kernel, stride, given, blocks in STAGES:
            stage = nn.Sequential()
            for index in range(blocks):
                expanded = taken * expansion
                excite = SqueezeExcite(expanded, taken // 4, nn.SiLU, nn.Sigmoid)
                step = stride if index == 0 else 1
                stage.append(InvertedResidual(taken, expanded, given, kernel, step, nn.SiLU, excite))
                taken = given
            stages.append(stage)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps P3, P4 and P5: 1/8, 1/16 and 1/32 of the picture."""
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPS:
                maps.append(x)
        return maps


class Fuse(nn.Module):
    """The mean of maps of one shape, SiLU, a separable convolution and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.SiLU(), Separable(), nn.BatchNorm2d(CHANNELS))

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps [B, 64, H, W] to one."""
        share = 1 / len(maps)
        total = maps[0] * share
        for other in maps[1:]:
            total = total + other * share
        y: Tensor = self.layers(total)
        return y


class Cell(nn.Module):
    """One BiFPN layer: down the pyramid from P7 to P3, and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fuse() for _ in range(LEVELS - 1))
        self.up = nn.ModuleList(Fuse() for _ in range(LEVELS - 1))
        self.larger, self.smaller = nn.Upsample(scale_factor=2), nn.MaxPool2d(3, 2, 1)

    def forward(self, maps: list[Tensor], again: list[Tensor]) -> list[Tensor]:
        """P3 to P7, and the same for the way up (which differ in projections), to P3 to P7."""
        middle = [maps[-1]]
        for fuse, x in zip(self.down, reversed(maps[:-1]), strict=True):
            middle.insert(0, fuse(x, self.larger(middle[0])))
        results = [middle[0]]
        for index, fuse in enumerate(self.up):
            level, last = index + 1, index == LEVELS - 2
            parts = [again[level]] if last else [again[level], middle[level]]
            results.append(fuse(*parts, self.smaller(results[-1])))
        return results


class Head(nn.Module):
    """Separable convolutions that all levels share, each level with batch norms of its own, and a last one."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Separable() for _ in range(HEAD_DEPTH))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(HEAD_DEPTH)) for _ in range(LEVELS)
        )
        self.activation, self.last = nn.SiLU(), Separable(given)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map per level to one map per level."""
        results = []
        for norms, x in zip(self.norms, maps, strict=True):
            assert isinstance(norms, nn.ModuleList)
            for conv, norm in zip(self.convs, norms, strict=True):
                x = self.activation(norm(conv(x)))
            results.append(self.last(x))
        return results


class EfficientDetD0(nn.Module):
    """Picture [1, 3, 512, 512] to class scores and boxes, each at five levels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.enter = nn.ModuleList(ConvNorm(taken, CHANNELS, activation=None) for taken in (*TAPPED, TAPPED[-1]))
        self.enter_again = nn.ModuleList(ConvNorm(taken, CHANNELS, activation=None) for taken in TAPPED[1:])
        self.smaller = nn.MaxPool2d(3, 2, 1)
        self.cells = nn.ModuleList(Cell() for _ in range(CELLS))
        self.classes, self.boxes = Head(ANCHORS * CLASSES), Head(ANCHORS * 4)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """[1, 3, H, W] -> five maps [1, 810, h, w] and five [1, 36, h, w], h = H / 8 to H / 128."""
        p3, p4, p5 = self.backbone(x)
        maps = [enter(p) for enter, p in zip(self.enter, (p3, p4, p5, p5), strict=True)]
        maps[3] = self.smaller(maps[3])
        maps.append(self.smaller(maps[3]))
        again = [maps[0], self.enter_again[0](p4), self.enter_again[1](p5), *maps[3:]]
        for cell in self.cells:
            maps = again = cell(maps, again)
        return self.classes(maps), self.boxes(maps)
