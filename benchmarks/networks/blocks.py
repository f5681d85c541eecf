"""What the networks share: convolution with batch norm, squeeze-and-excite, inverted residuals, and random weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, activation; the picture keeps its size but for the stride.

    Args:
        taken, given: channels in and out.
        kernel, stride: of both axes.
        activation: None for none.
        groups: of the convolution.
    """

    def __init__(
        self,
        taken: int,
        given: int,
        kernel: int = 1,
        stride: int = 1,
        activation: Activation | None = nn.ReLU,
        groups: int = 1,
    ) -> None:
        super().__init__(
            nn.Conv2d(taken, given, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(given),
            *([] if activation is None else [activation()]),
        )


class SqueezeExcite(nn.Module):
    """Scales every channel by a function of the means of all (arXiv:1709.01507).

    Args:
        channels: of the map.
        squeezed: channels in between.
        activation: in between.
        gate: makes the scales.
    """

    def __init__(self, channels: int, squeezed: int, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            activation(),
            nn.Conv2d(squeezed, channels, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        scale: Tensor = self.scale(x)
        return x * scale


class InvertedResidual(nn.Module):
    """Expands, convolves each channel, excites, projects (arXiv:1801.04381); adds the input where shapes allow.

    Args:
        taken, expanded, given: channels in, in between and out; nothing is expanded where the first two agree.
        kernel, stride: of the convolution of each channel.
        activation: after the first two convolutions.
        excite: what stands before the projection, if anything does.
    """

    def __init__(
        self,
        taken: int,
        expanded: int,
        given: int,
        kernel: int,
        stride: int,
        activation: Activation,
        excite: nn.Module | None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if expanded == taken else [ConvNorm(taken, expanded, activation=activation)]
        layers.append(ConvNorm(expanded, expanded, kernel, stride, activation, groups=expanded))
        if excite is not None:
            layers.append(excite)
        self.layers = nn.Sequential(*layers, ConvNorm(expanded, given, activation=None))
        self.adds = stride == 1 and taken == given

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


def with_random_weights(model: nn.Module, frame: Tensor, seed: int = 0) -> nn.Module:
    """Weights under which activations neither vanish nor blow up, in inference mode.

    Weights are normal with variance 2 / fan-in, biases 0. Each batch norm then takes its mean and variance from `frame`
    (one pass in training mode with momentum 1), so that every channel behind it has mean 0 and variance 1 there.

    Args:
        model: is changed, and returned.
        frame: a typical input [1, C, H, W].
        seed: of the weights.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(frame)
    return model.eval()
