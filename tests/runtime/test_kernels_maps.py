"""Concatenation, slices, pooling and resizing equal PyTorch's: what moves values about rather than computes them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.runtime import Engine
from tests.runtime.check import Net, assert_agrees, changing

SIZES = [(1, 1), (1, 7), (5, 3), (17, 13)]


def _islands(engine: Engine) -> Any:
    return engine.program.info["report"]["islands"]


def _concats(m: Any, x: Tensor) -> list[Tensor]:
    a, b = m.a(x), m.b(x)
    twice = torch.cat([a, a], 1)
    inner = torch.cat([b, a], 1)
    nested = torch.cat([inner, x, inner], 1)
    other = torch.cat([b, twice, b], 1)
    return [m.narrow(nested), m.wide(other), other, torch.cat([x, m.narrow(nested)], 1), m.a(x)]


@pytest.mark.parametrize("size", SIZES)
def test_concat(size: tuple[int, int]) -> None:
    """The same map twice, nested, in two at once, of the frame, as an output."""
    net = Net(_concats, a=nn.Conv2d(3, 5, 3, padding=1), b=nn.Conv2d(3, 17, 1), narrow=nn.Conv2d(47, 2, 1),
              wide=nn.Conv2d(44, 19, 3, padding=2, dilation=2))  # fmt: skip
    assert not _islands(assert_agrees(net, changing((3, *size))))


def _slices(m: Any, x: Tensor) -> list[Tensor]:
    y = m.a(x)
    first, second, third = y.split([3, 16, 2], 1)
    left, right = y[:, :20].chunk(2, 1)
    joined = torch.cat([right, third, y[:, 5:9], x[:, 1:]], 1)
    deep = joined[:, 4:][:, 1:8]
    return [m.b(first), m.c(second) + second, m.depth(left), deep, m.d(deep), y[:, -1:], x[:, :1], left + right, joined]


@pytest.mark.parametrize("size", SIZES)
def test_slices(size: tuple[int, int]) -> None:
    """Split, chunk and slice; of a map, of a concatenation, of a slice, of the frame; into all kinds of readers."""
    net = Net(
        _slices, a=nn.Conv2d(3, 21, 3, padding=1), b=nn.Conv2d(3, 4, 3, padding=1), c=nn.Conv2d(16, 16, 3, padding=1),
        depth=nn.Conv2d(10, 10, 3, padding=1, groups=10), d=nn.Conv2d(7, 2, 3, padding=2),
    )  # fmt: skip
    assert not _islands(assert_agrees(net, changing((3, *size))))


def _pools(m: Any, x: Tensor) -> list[Tensor]:
    y = m.conv(x)
    found = [F.max_pool2d(y, k, s, p) for k, s, p in ((1, 1, 0), (2, 2, 1), (3, 1, 1), (3, 2, 1), (5, 1, 2), (2, 3, 1))]
    found += (
        [F.max_pool2d(y, (1, 3), (1, 2), (0, 1)), F.max_pool2d(y, 3, 2, 1, dilation=2)] if min(y.shape[2:]) > 2 else []
    )
    found += [F.max_pool2d(y, 3, 2, 1, ceil_mode=True), F.max_pool2d(y, 2, 2, 1, ceil_mode=True)]
    found += [F.avg_pool2d(y, 3, s, 1, count_include_pad=counted) for s in (1, 2, 3) for counted in (True, False)]
    found += [F.avg_pool2d(y, 3, 2, 1, ceil_mode=True, count_include_pad=False), F.avg_pool2d(y, 2, 1, 1)]
    found += [m.after(F.max_pool2d(y, 3, 1, 1)), torch.relu(F.avg_pool2d(x, 3, 1, 1))]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_pools(size: tuple[int, int]) -> None:
    net = Net(_pools, conv=nn.Conv2d(3, 17, 1), after=nn.Conv2d(17, 3, 3, padding=1))
    assert not _islands(assert_agrees(net, changing((3, *size))))


def test_pool_of_negative_values_never_sees_its_padding() -> None:
    net = Net(lambda m, x: [F.max_pool2d(m.conv(x) * 0.01 - 5, 3, 1, 1), F.max_pool2d(x - 9, 2, 2, 1)],
              conv=nn.Conv2d(3, 4, 1))  # fmt: skip
    assert not _islands(assert_agrees(net, changing((3, 6, 5))))


def _resizes(m: Any, x: Tensor) -> list[Tensor]:
    y = m.conv(x)
    height, width = y.shape[2:]
    found = [F.interpolate(y, scale_factor=scale) for scale in (2, 3, 0.5 if min(height, width) > 1 else 1)]
    found += [
        F.interpolate(y, size=(2 * height + 1, max(1, width - 1)), mode=mode) for mode in ("nearest", "nearest-exact")
    ]
    for mode in ("bilinear", "bicubic"):
        for corners in (False, True):
            found += [F.interpolate(y, scale_factor=2, mode=mode, align_corners=corners)]
            found += [F.interpolate(y, size=(height + 2, 3 * width), mode=mode, align_corners=corners)]
            found += [F.interpolate(y, size=(max(1, height // 2), 3), mode=mode, align_corners=corners)]
    return [*found, m.after(F.interpolate(y, scale_factor=2)), torch.relu(F.interpolate(x, scale_factor=2))]


@pytest.mark.parametrize("size", SIZES)
def test_resizes(size: tuple[int, int]) -> None:
    """Nearest, bilinear and bicubic; up, down and by size; corners aligned or not."""
    net = Net(_resizes, conv=nn.Conv2d(3, 17, 1), after=nn.Conv2d(17, 3, 3, padding=1))
    assert not _islands(assert_agrees(net, changing((3, *size))))


def test_pyramid() -> None:
    """Everything in one network: down, up, across, and out in several sizes."""

    def body(m: Any, x: Tensor) -> list[Tensor]:
        a = F.silu(m.a(x))
        b = F.silu(m.b(a))
        c = F.silu(m.c(b))
        pooled = [c]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        c = F.silu(m.mix(torch.cat(pooled, 1)))
        up = torch.cat([F.interpolate(c, scale_factor=2), b], 1)
        left, right = m.split(up).chunk(2, 1)
        return [m.head(torch.cat([left, right + m.side(right)], 1)), c]

    net = Net(
        body, a=nn.Conv2d(3, 8, 6, 2, 2), b=nn.Conv2d(8, 12, 3, 2, 1), c=nn.Conv2d(12, 18, 3, 2, 1),
        mix=nn.Conv2d(72, 18, 1), split=nn.Conv2d(30, 24, 1), side=nn.Conv2d(12, 12, 3, padding=1),
        head=nn.Conv2d(24, 7, 1),
    )  # fmt: skip
    assert not _islands(assert_agrees(net, changing((3, 48, 40))))
