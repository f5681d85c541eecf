"""ResNet-50 (He et al., "Deep Residual Learning", arXiv:1512.03385, table 1), stride in the 3x3 convolution."""

from torch import Tensor, nn

from benchmarks.networks.blocks import ConvNorm

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # channels, blocks, stride of the first
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 to `channels`, 3x3, 1x1 to EXPANSION times as many; the input is added, projected where shapes differ."""

    def __init__(self, taken: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        given = channels * EXPANSION
        self.layers = nn.Sequential(
            ConvNorm(taken, channels),
            ConvNorm(channels, channels, 3, stride),
            ConvNorm(channels, given, activation=None),
        )
        same = stride == 1 and taken == given
        self.shortcut = nn.Identity() if same else ConvNorm(taken, given, 1, stride, None)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4 channels, H / stride, W / stride]."""
        y: Tensor = self.activation(self.layers(x) + self.shortcut(x))
        return y


class ResNet50(nn.Module):
    """Picture [1, 3, 224, 224] to the scores of 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        taken = 64
        for channels, blocks, stride in STAGES:
            for index in range(blocks):
                layers.append(Bottleneck(taken, channels, stride if index == 0 else 1))
                taken = channels * EXPANSION
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(taken, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """[1, 3, H, W] -> [1, 1000]."""
        y: Tensor = self.head(self.layers(x))
        return y
