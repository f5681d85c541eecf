"""The demonstration's network: segments each frame by itself and knows nothing of skipping."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from skipfx.demo.scene import CLASSES

WEIGHTS = Path(__file__).with_name("weights.safetensors")


class ConvBlock(nn.Sequential):
    """A 3x3 convolution without bias, BatchNorm and an activation."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module, stride: int = 1) -> None:
        """Build the block for feature maps of `inputs` channels."""
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), activation)


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        """Build the block for feature maps of `channels` channels."""
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(channels, channels, activation),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to the same shape."""
        output: Tensor = self.activation(x + self.body(x))
        return output


class DemoNet(nn.Module):
    """A small U-Net over strides 2, 4 and 8; 91,203 parameters, 1.5 GMACs at 288x512.

    Input: RGB, float32 [B, 3, H, W] in 0..1; H and W are multiples of 8. Output: logits, float32
    [B, len(CLASSES), H, W]; they are computed at stride 2 and up-sampled bilinearly.
    """

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        # The large maps take the cheaper activation.
        relu, silu = nn.ReLU(), nn.SiLU()
        self.stem = nn.Sequential(ConvBlock(3, 24, relu, stride=2), Residual(24, relu))
        self.middle = nn.Sequential(ConvBlock(24, 32, silu, stride=2), Residual(32, silu))
        self.deep = nn.Sequential(nn.MaxPool2d(2), Residual(32, silu))
        self.up_deep = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge_middle = ConvBlock(32 + 32, 32, silu)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.merge_stem = nn.Sequential(ConvBlock(32 + 24, 24, relu), ConvBlock(24, 24, relu))
        self.head = nn.Conv2d(24, len(CLASSES), 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Map frames [B, 3, H, W] to logits [B, len(CLASSES), H, W].

        Raises:
            ValueError: H or W is not a multiple of 8.
        """
        if frame.shape[-2] % 8 or frame.shape[-1] % 8:
            raise ValueError(f"frames must have multiples of 8 rows and columns, not {tuple(frame.shape[-2:])}")
        fine = self.stem(frame)
        middle = self.middle(fine)
        middle = self.merge_middle(torch.cat((self.up_deep(self.deep(middle)), middle), dim=1))
        fine = self.merge_stem(torch.cat((self.up(middle), fine), dim=1))
        logits: Tensor = self.up(self.head(fine))
        return logits


def load_demo_net() -> DemoNet:
    """Return the trained network, in evaluation mode, with its BatchNorm layers unfolded."""
    net = DemoNet()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def to_input(frames: NDArray[np.uint8]) -> Tensor:
    """Turn RGB pictures, uint8 [H, W, 3] or [B, H, W, 3], into the network's input, float32 [B, 3, H, W] in 0..1."""
    batch = frames.reshape(-1, *frames.shape[-3:]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(batch, np.float32) / np.float32(255))


def mean_iou(predicted: NDArray[np.integer], mask: NDArray[np.integer]) -> float:
    """Intersection over union, averaged over the object classes (all but the background).

    Args:
        predicted: Classes, of any shape, such as [H, W] or [T, H, W] for the figure of a whole clip.
        mask: True classes, of the same shape.

    Returns:
        A number in 0..1. Classes found in neither are left out; with no object at all in either it is 1.

    Raises:
        ValueError: The shapes differ.
    """
    if predicted.shape != mask.shape:
        raise ValueError(f"predicted has the shape {predicted.shape}, mask {mask.shape}")
    scores = []
    for label in range(1, len(CLASSES)):
        found, true = predicted == label, mask == label
        if union := np.count_nonzero(found | true):
            scores.append(np.count_nonzero(found & true) / union)
    return float(np.mean(scores)) if scores else 1.0
