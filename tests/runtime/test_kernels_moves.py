"""Moves of values, reductions over channels and transposed convolutions equal PyTorch's, at random sizes and sets."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.runtime.check import EXACT, TOLERANCE, Net, assert_agrees, changing, noise

SIZES = [(1, 1), (5, 3), (8, 6)]
Body = Callable[[Any, Tensor], list[Tensor]]


def _pads(m: Any, x: Tensor) -> list[Tensor]:
    y = m.conv(x)
    few = min(1, y.shape[2] - 1), min(2, y.shape[3] - 1)
    sides = (few[1], few[1], 0, few[0])
    found = [F.pad(y, sides, mode=mode) for mode in ("reflect", "replicate", "circular")]
    found += [F.pad(y, (1, 0, 2, 3), value=value) for value in (0.0, 0.7)]
    found += [m.after(F.pad(y, (0, 1, 0, 1))), F.max_pool2d(F.pad(y, (0, 1, 0, 1), value=-torch.inf), 2, 2)]
    return [*found, F.avg_pool2d(F.pad(y, (0, 1, 1, 2)), 2, 2), m.after(F.pad(y, (1, 2, 1, 2), mode="replicate"))]


def _orders(m: Any, x: Tensor) -> list[Tensor]:
    y, wide = m.conv(x), m.wide(x)
    _, _, height, width = y.shape
    found = [y.flip(2), y.flip((1, 3)), y.roll((1, 2), (2, 3)), y.repeat(1, 2, 2, 1), y.repeat_interleave(2, 1)]
    found += [y[:, ::2], y[:, [4, 0, 0]], y[:, :, ::2, ::3], y[..., -1:], y[:, 1].unsqueeze(1), y[:, 2:3] * y]
    found += [F.channel_shuffle(y, 3), y.view(1, 2, 3, height, width).transpose(1, 2).reshape(y.shape)]
    found += [
        F.pixel_shuffle(wide, 2),
        torch.relu(F.pixel_shuffle(wide, 2)),
        F.pixel_unshuffle(F.pixel_shuffle(wide, 2), 2),
    ]
    found += [torch.stack([y, y * 2], 2).flatten(1, 2), torch.cat([y, wide], 1)[:, ::5]]
    if height % 2 == 0 and width % 2 == 0:
        focus = [y[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        found += [torch.cat(focus, 1), F.pixel_unshuffle(y, 2)]
    return found


def _channels(m: Any, x: Tensor) -> list[Tensor]:
    y = m.wide(x)
    mean = y.mean(1, keepdim=True)
    variance = (y - mean).pow(2).mean(1, keepdim=True)
    found = [m.factor[:, None, None] * ((y - mean) / torch.sqrt(variance + 1e-6)), F.normalize(y, dim=1)]
    found += [F.softmax(y, 1), F.log_softmax(y, 1), y.amax(1, keepdim=True), y.max(1, keepdim=True)[0]]
    found += [y.min(1, keepdim=True)[0], y.amin(1, keepdim=True), y.sum(1, keepdim=True), mean]
    return [*found, y.norm(dim=1, keepdim=True), y.var(1, keepdim=True), y.std(1, keepdim=True, unbiased=False)]


def _positions(m: Any, x: Tensor) -> list[Tensor]:
    """Layers over the last axis: the two spellings of a ConvNeXt block, tokens, a matrix product."""
    y = m.wide(x)
    inner = m.out(F.gelu(m.into(m.norm(y.permute(0, 2, 3, 1))))) * m.factor
    tokens = y.flatten(2).transpose(1, 2)
    tokens = tokens + m.out(F.relu(m.into(m.norm(tokens))))
    product = (y.permute(0, 2, 3, 1) @ m.matrix).softmax(-1)
    return [y + inner.permute(0, 3, 1, 2), tokens.transpose(1, 2).reshape(y.shape), product.permute(0, 3, 1, 2)]


def _stacks(m: Any, x: Tensor) -> list[Tensor]:
    """Selective kernels and split attention: scales per branch from what the branches have in common."""
    y, z = m.conv(x), torch.relu(m.conv(x))
    stack = torch.stack([y, z], 1)
    weights = m.two(stack.sum(1).mean((2, 3), keepdim=True))
    selected = (stack * torch.softmax(weights.view(1, 2, 6, 1, 1), 1)).sum(1)
    split = m.two(y).view(1, 2, 6, *y.shape[2:])
    attention = m.two(split.sum(1).mean((2, 3), keepdim=True)).view(1, 1, 2, -1).transpose(1, 2).softmax(1)
    return [selected, (split * attention.reshape(1, 2, 6, 1, 1)).sum(1)]


CASES: dict[str, Body] = {
    "pads": _pads, "orders": _orders, "channels": _channels, "positions": _positions, "stacks": _stacks,
}  # fmt: skip


def network(body: Body) -> nn.Module:
    return Net(
        body, conv=nn.Conv2d(3, 6, 3, padding=1), wide=nn.Conv2d(3, 20, 1), after=nn.Conv2d(6, 4, 2),
        norm=nn.LayerNorm(20), into=nn.Linear(20, 24), out=nn.Linear(24, 20), factor=noise(20), matrix=noise(20, 5),
        two=nn.Conv2d(6, 12, 1),
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_moves_and_reductions(name: str, size: tuple[int, int]) -> None:
    engine = assert_agrees(network(CASES[name]), changing((3, *size)), tolerance=3 * TOLERANCE)
    assert not engine.program.info["report"]["islands"]


def test_outputs_that_are_maps_in_another_shape_need_no_island() -> None:
    net = Net(
        lambda m, x: [m.head(m.a(x).mean((2, 3))), m.a(x)[:, :1].squeeze(1), m.a(x).flatten(2), m.a(x)],
        a=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 9),
    )  # fmt: skip
    assert all(part.island is None for part in assert_agrees(net, changing((3, 7, 6))).program.parts)


def test_what_attention_returns_goes_on_position_by_position() -> None:
    """The sum with the tokens before it, the norm and the two layers behind it are not part of the island."""

    def body(m: Any, x: Tensor) -> Tensor:
        tokens = m.a(x).flatten(2).transpose(1, 2)
        query = m.query(tokens).view(1, 30, 2, 4).transpose(1, 2)
        seen = F.scaled_dot_product_attention(query, query, query).transpose(1, 2).reshape(1, 30, 8)
        tokens = tokens + seen
        tokens = tokens + m.out(F.gelu(m.into(m.norm(tokens))))
        result: Tensor = tokens.transpose(1, 2).reshape(1, 8, 5, 6)
        return result

    net = Net(body, a=nn.Conv2d(3, 8, 1), query=nn.Linear(8, 8), norm=nn.LayerNorm(8), into=nn.Linear(8, 16),
              out=nn.Linear(16, 8))  # fmt: skip
    engine = assert_agrees(net, changing((3, 5, 6)), 10 * TOLERANCE)
    assert {"into", "out", "query"} <= {layer.name for layer in engine.program.layers}


def test_the_largest_channel_is_an_integer() -> None:
    net = Net(lambda m, x: [m.a(x).argmax(1), m.a(x).argmax(1, keepdim=True)], a=nn.Conv2d(3, 21, 1))
    assert_agrees(net, changing((3, 5, 6)))


TRANSPOSED: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "groups": 3, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "output_padding": 1},
    {"kernel_size": (3, 4), "stride": (1, 2), "padding": 1},
    {"kernel_size": 2, "stride": 4},
    {"kernel_size": 1, "stride": 2, "output_padding": 1},
]


@pytest.mark.parametrize("size", [(2, 3), (5, 4)])
def test_transposed_convolutions(size: tuple[int, int]) -> None:
    layers: list[nn.Module] = [nn.ConvTranspose2d(6, 6, **options) for options in TRANSPOSED]
    layers += [nn.Sequential(nn.ConvTranspose2d(6, 6, 2, 2, groups=g), nn.BatchNorm2d(6), nn.ReLU()) for g in (1, 3)]
    net = Net(lambda m, x: [layer(m.a(x)) for layer in m.layers], a=nn.Conv2d(3, 6, 1), layers=nn.ModuleList(layers))
    assert not assert_agrees(net, changing((3, *size))).program.info["report"]["islands"]


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_any_size_and_any_active_set(name: str, height: int, width: int, seed: int) -> None:
    """The modules compiled above serve again: code depends on the kinds of operators alone."""
    assert_agrees(network(CASES[name]), changing((3, height, width), seed=seed), 3 * TOLERANCE, gate=EXACT)
