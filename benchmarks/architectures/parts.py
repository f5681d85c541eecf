"""What the short definitions share."""

from collections.abc import Sequence

from torch import Tensor, nn


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch-norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3 x 3, then 1 x 1."""
    return nn.Sequential(block(inputs, inputs, 3, stride, groups=inputs), block(inputs, outputs, 1))


def stages(widths: Sequence[int]) -> nn.ModuleList:
    """A plain backbone: each stage halves the size."""
    return nn.ModuleList(
        nn.Sequential(block(a, b, stride=2), block(b, b)) for a, b in zip((3, *widths[:-1]), widths, strict=True)
    )


def features(backbone: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The maps after every stage, the finest first."""
    found = []
    for stage in backbone:
        x = stage(x)
        found.append(x)
    return found
