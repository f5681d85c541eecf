"""MobileNetV3-Large (Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, table 1)."""

from torch import Tensor, nn

from benchmarks.networks.blocks import ConvNorm, InvertedResidual, SqueezeExcite

# kernel, expanded and given channels, squeeze-and-excite, hard swish (else ReLU), stride
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class MobileNetV3Large(nn.Module):
    """Picture [1, 3, 224, 224] to the scores of 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, 16, 3, 2, nn.Hardswish)]
        taken = 16
        for kernel, expanded, given, excites, swish, stride in BLOCKS:
            excite = SqueezeExcite(expanded, _divisible(expanded // 4), nn.ReLU, nn.Hardsigmoid) if excites else None
            activation = nn.Hardswish if swish else nn.ReLU
            layers.append(InvertedResidual(taken, expanded, given, kernel, stride, activation, excite))
            taken = given
        self.layers = nn.Sequential(*layers, ConvNorm(taken, 960, activation=nn.Hardswish))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[1, 3, H, W] -> [1, 1000]."""
        y: Tensor = self.head(self.layers(x))
        return y


def _divisible(channels: int) -> int:
    """The nearest multiple of 8; not less than 9 tenths of what was asked for."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
