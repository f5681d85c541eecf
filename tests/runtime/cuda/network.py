"""A network with every kind of kernel, of a geometry that varies; its kernels are the same for every geometry."""

from dataclasses import dataclass

from hypothesis import strategies as st
from torch import Tensor, cat, nn
from torch.nn import functional as F

from tests.networks import Frames, seeded
from tests.runtime.check import changing


@dataclass(frozen=True)
class Geometry:
    """Sizes of a network and its frames."""

    height: int = 11
    width: int = 14
    channels: int = 20
    out: int = 70  # more than one block of threads has
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    def clip(self, seed: int = 0, share: float = 1.0) -> list[Frames]:
        """Frames that change at sets of positions."""
        return changing((3, self.height, self.width), seed=seed, share=share)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
geometries = st.builds(
    Geometry,
    height=st.integers(7, 17),
    width=st.integers(7, 140),
    channels=st.integers(2, 20).map(lambda half: 2 * half),
    out=st.integers(1, 70),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)


class Kinds(nn.Module):
    """Every core, and ends with an activation, an operand, a parameter per channel, and nothing."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        shape = (g.kernel, g.stride, g.padding, g.dilation)
        self.stem = nn.Conv2d(3, g.channels, *shape)
        self.each = nn.Conv2d(g.channels, g.channels, 3, padding=1, groups=g.channels)
        self.halves = nn.Conv2d(g.channels, g.channels, 3, padding=1, groups=2)
        self.head = nn.Conv2d(2 * g.channels, g.out, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.silu(self.stem(x))
        y = x + self.halves(F.relu(self.each(x)))
        small = F.max_pool2d(y, 3, 2, 1)
        large = F.interpolate(small, size=y.shape[2:], mode="bilinear")
        return [self.head(cat([y, large], 1)), F.avg_pool2d(y, 3, 1, 1)]


def network(geometry: Geometry) -> nn.Module:
    """The network with random weights."""
    return seeded(Kinds(geometry))
