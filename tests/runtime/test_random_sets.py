"""Operators equal PyTorch's at random sizes, options and active sets.

Code depends on the kinds of operators alone: the same operators stand first in every network here, so that one compiled
module serves all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import Frames, seeded
from tests.runtime.check import EXACT, TOLERANCE, assert_agrees, noise
from tests.strategies import FOUND, SIZES, changes

CHANNELS = 6
Operator = Callable[[Tensor], Tensor]


class Around(nn.Module):
    """The operators, each behind a convolution, after one of every kind of kernel."""

    def __init__(self, operators: list[Operator]) -> None:
        super().__init__()
        self.operators = operators
        self.conv = nn.Conv2d(3, CHANNELS, 1)
        wide = [nn.Conv2d(CHANNELS, 16 * vectors, 1) for vectors in (1, 2, 3)]
        self.convs = nn.ModuleList([*wide, nn.Conv2d(CHANNELS, CHANNELS, 1, groups=CHANNELS)])
        seeded(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv(x)
        kinds = [conv(x) for conv in self.convs] + [F.relu(conv(x)) for conv in self.convs]
        kinds += [
            F.max_pool2d(x, 1),
            F.avg_pool2d(x, 1),
            F.interpolate(x, scale_factor=3.0),
            x.flip(1),
            torch.cat([x, x], 1),
        ]
        return [*kinds, *(operator(x) for operator in self.operators)]


def check(operators: list[Operator], clip: list[Frames]) -> None:
    """The operators as a stream computes them, beside PyTorch."""
    engine = assert_agrees(Around(operators).eval(), clip, 3 * TOLERANCE, gate=EXACT)
    assert not engine.program.info["report"]["islands"]


@FOUND
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    """Maxima, means with and without the padding counted, and LP norms, with ceil mode and dilation."""
    size = data.draw(st.integers(2, 13)), data.draw(st.integers(2, 13))
    kernel = data.draw(st.integers(1, min(4, *size))), data.draw(st.integers(1, min(4, *size)))
    stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, kernel[0] // 2)), data.draw(st.integers(0, kernel[1] // 2))
    ceil, fits = data.draw(st.booleans()), 2 * max(kernel) - 1 <= min(size)
    dilation = data.draw(st.integers(1, 2)) if fits else 1
    pools: list[Operator] = [
        lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil),
        lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad=False),
        lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad=True),
        lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, divisor_override=3),
        lambda x: F.lp_pool2d(x, 2.0, 2, ceil_mode=ceil),
        lambda x: F.adaptive_avg_pool2d(x, kernel),
    ]
    check(pools, data.draw(changes((3, *size))))


@FOUND
@given(st.data())
def test_resizes(data: st.DataObject) -> None:
    """Nearest, bilinear and bicubic, by factor and by size, both corner conventions."""
    size, target = (data.draw(SIZES), data.draw(SIZES)), (data.draw(SIZES), data.draw(SIZES))
    factor = data.draw(st.sampled_from([1.5, 2, 3])), data.draw(st.sampled_from([1, 2, 2.5]))
    kinds: list[dict[str, Any]] = [{"mode": "nearest"}, {"mode": "nearest-exact"}]
    kinds += [{"mode": mode, "align_corners": corners} for mode in ("bilinear", "bicubic") for corners in (False, True)]
    extents: list[dict[str, Any]] = [{"size": target}, {"scale_factor": factor}]
    resizes: list[Operator] = [partial(F.interpolate, **extent, **how) for how in kinds for extent in extents]
    check(resizes, data.draw(changes((3, *size))))


@FOUND
@given(st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    size, stride = (data.draw(SIZES), data.draw(SIZES)), (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    kernel, dilation = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))), data.draw(st.integers(1, 2))
    options: dict[str, Any] = {
        "padding": tuple(data.draw(st.integers(0, (k - 1) * dilation // 2)) for k in kernel),
        "output_padding": tuple(data.draw(st.integers(0, max(s, dilation) - 1)) for s in stride),
        "groups": data.draw(st.sampled_from([1, 2, CHANNELS])),
        "bias": data.draw(st.booleans()),
    }
    layer = nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride, dilation=dilation, **options)
    check([nn.Sequential(layer, nn.ReLU()).requires_grad_(False)], data.draw(changes((3, *size))))


@FOUND
@given(st.data())
def test_pads(data: st.DataObject) -> None:
    """Every kind of padding, also with sides of its own before a convolution and a pool."""
    size = data.draw(st.integers(2, 13)), data.draw(st.integers(2, 13))
    sides = [data.draw(st.integers(0, min(3, size[axis] - 1))) for axis in (1, 1, 0, 0)]
    value, weight = data.draw(st.sampled_from([0.0, 0.7])), noise(4, CHANNELS, 2, 2)
    pads: list[Operator] = [
        lambda x: F.pad(x, sides, mode="reflect"),
        lambda x: F.pad(x, sides, mode="replicate"),
        lambda x: F.pad(x, sides, mode="circular"),
        lambda x: F.pad(x, sides, value=value),
        lambda x: F.conv2d(F.pad(x, sides), weight),
        lambda x: F.max_pool2d(F.pad(x, [min(side, 1) for side in sides], value=-torch.inf), 2, 2),
        lambda x: F.pad(x, [-side // 2 for side in sides]),
    ]
    check(pads, data.draw(changes((3, *size))))


@FOUND
@given(st.data())
def test_slices_flips_and_shuffles(data: st.DataObject) -> None:
    size = 2 * data.draw(st.integers(1, 6)), 2 * data.draw(st.integers(1, 6))
    top, left = (data.draw(st.integers(0, extent - 1)) for extent in size)
    steps = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    chosen = data.draw(st.lists(st.integers(0, CHANNELS - 1), min_size=1, max_size=8))
    turned = data.draw(st.sets(st.integers(1, 3)))
    moves: list[Operator] = [
        lambda x: x[:, :, top :: steps[0], left :: steps[1]],
        lambda x: x[:, chosen, top:, : left + 1],
        lambda x: x[:, top % CHANNELS :],
        lambda x: F.relu(x.flip(sorted(turned))),
        lambda x: x.roll((top, -left), (2, 3)),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: F.pixel_shuffle(torch.cat([x, x], 1)[:, :8], 2),
        lambda x: x[:, :, [top, 0, top]],
        lambda x: x.transpose(2, 3)[:, :, left:],
        lambda x: torch.cat([x, x[:, :, top:], x], 2)[..., left:],
        lambda x: torch.cat([x, x.rot90(2, (2, 3)), x[..., : left + 1]], 3),
    ]
    check(moves, data.draw(changes((3, *size))))
