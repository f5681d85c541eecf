"""The convolutions that `benchmarks.kernels` times, drawn from six networks, and what dense engines compute of them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

COPIES = 8  # convolutions side by side in what is timed; one alone would be timed with the call around it


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network.

    Attributes:
        network: where it stands.
        kernel, stride: of both axes.
        taken, given: channels in and out.
        height, width: of its input.
    """

    network: str
    kernel: int
    stride: int
    taken: int
    given: int
    height: int
    width: int
    groups: int = 1

    @property
    def name(self) -> str:
        """As "hrnet 3x3 32-32 64x48"."""
        kind = "x".join([str(self.kernel)] * 2) + f"/{self.stride}" * (self.stride > 1) + "dw" * (self.groups > 1)
        return f"{self.network} {kind} {self.taken}-{self.given} {self.height}x{self.width}"

    @property
    def padding(self) -> int:
        """Zeros before and after, of both axes."""
        return (self.kernel - 1) // 2

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of its output."""
        height, width = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in (self.height, self.width))
        return height, width

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an output position."""
        return self.taken // self.groups * self.given * self.kernel**2

    @cached_property
    def frame(self) -> NDArray[np.float32]:
        """An input [1, C, H, W]."""
        shape = (1, self.taken, self.height, self.width)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    @cached_property
    def convs(self) -> list[nn.Conv2d]:
        """COPIES of it, each with weights of its own."""
        torch.manual_seed(0)
        shape = (self.taken, self.given, self.kernel, self.stride, self.padding, 1, self.groups)
        return [nn.Conv2d(*shape) for _ in range(COPIES)]

    def program(self, summed: bool) -> ExportedProgram:
        """COPIES of it on one input, as a network that gives all outputs, or their sum.

        An engine that has a layout of its own converts the input and what it gives. Of a sum that is one conversion, as
        in a network, and the engines that do so add while they convolve.
        """
        return torch.export.export(_SideBySide(self.convs, summed).eval(), (torch.from_numpy(self.frame),))


class _SideBySide(nn.Module):
    def __init__(self, convs: list[nn.Conv2d], summed: bool) -> None:
        super().__init__()
        self.convs, self.summed = nn.ModuleList(convs), summed

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [conv(x) for conv in self.convs]
        if not self.summed:
            return outputs
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return [total]


def _table(network: str, *shapes: tuple[int, ...]) -> list[Convolution]:
    return [Convolution(network, *shape) for shape in shapes]


# kernel, stride, channels in and out, height and width of the input, groups
SHAPES = [
    *_table(
        "yolov5n",
        (6, 2, 3, 16, 480, 640),
        (3, 2, 16, 32, 240, 320),
        (1, 1, 32, 16, 120, 160),
        (3, 1, 16, 16, 120, 160),
        (3, 2, 32, 64, 120, 160),
        (1, 1, 64, 64, 60, 80),
        (3, 1, 64, 64, 30, 40),
        (1, 1, 256, 128, 30, 40),
        (3, 2, 128, 256, 30, 40),
        (3, 1, 128, 128, 15, 20),
        (1, 1, 512, 256, 15, 20),
        (1, 1, 256, 255, 15, 20),
    ),
    *_table("vdsr", (3, 1, 1, 64, 216, 384), (3, 1, 64, 64, 216, 384), (3, 1, 64, 1, 216, 384)),
    *_table(
        "hrnet",
        (3, 2, 3, 64, 256, 192),
        (1, 1, 64, 256, 64, 48),
        (3, 1, 32, 32, 64, 48),
        (3, 1, 64, 64, 32, 24),
        (3, 1, 128, 128, 16, 12),
        (3, 1, 256, 256, 8, 6),
        (3, 2, 32, 256, 16, 12),
        (1, 1, 256, 32, 8, 6),
    ),
    *_table(
        "efficientdet",
        (3, 1, 32, 32, 256, 256, 32),
        (3, 2, 96, 96, 256, 256, 96),
        (5, 2, 144, 144, 128, 128, 144),
        (5, 1, 1152, 1152, 16, 16, 1152),
        (1, 1, 16, 96, 256, 256),
        (1, 1, 64, 64, 64, 64),
        (3, 1, 64, 64, 8, 8, 64),
        (1, 1, 64, 64, 4, 4),
    ),
    *_table(
        "resnet50",
        (7, 2, 3, 64, 224, 224),
        (1, 1, 64, 256, 56, 56),
        (3, 2, 128, 128, 56, 56),
        (1, 1, 1024, 256, 14, 14),
        (3, 1, 512, 512, 7, 7),
        (1, 2, 512, 1024, 28, 28),
    ),
    *_table(
        "mobilenetv3",
        (3, 2, 3, 16, 224, 224),
        (3, 1, 16, 16, 112, 112, 16),
        (1, 1, 24, 72, 56, 56),
        (5, 1, 960, 960, 7, 7, 960),
        (1, 1, 960, 1280, 1, 1),
    ),
]
