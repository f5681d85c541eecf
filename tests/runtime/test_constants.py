"""Constants that vary over the picture: position embeddings, coordinates, masks. Operands that never change."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.runtime.check import EXACT, Net, assert_agrees, assert_same, changing, compiled, flat, noise

C = 5


def _maps(m: Any, x: Tensor) -> list[Tensor]:
    """A value per number, position, row and column; before, behind and between maps; coordinates made in place."""
    y = m.a(x)
    _, _, height, width = y.shape
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.arange(width)
    coordinates = torch.stack([rows.expand(height, width), columns.expand(height, width).float()])[None]
    joined = torch.cat([y, coordinates, x], 1)
    found = [F.relu(y + m.grid) * m.one, m.grid - y, y * columns + rows, torch.maximum(m.grid, y), joined, m.b(joined)]
    found += [m.one - y[:, :1], m.grid * y[:, :1], y.mean((2, 3), keepdim=True) + m.grid, y * m.column / m.row.exp()]
    return [*found, torch.lerp(y, m.grid, 0.3), y.mean(2, keepdim=True) * m.grid]


def _truths(m: Any, x: Tensor) -> list[Tensor]:
    y = m.a(x)
    keep, few = m.grid > 0, m.one[0, 0] > 0.3
    found = [torch.where(keep, y, 0.0), torch.where(few, 1.0, y), y.masked_fill(few, 2.0), y * keep]
    return [*found, (y > m.grid).float(), ((y > 0) & keep).float(), ((y > 0) | ~few).float()]


def _tokens(m: Any, x: Tensor) -> list[Tensor]:
    """Position embeddings of tokens, and grids of anchors on values whose channels are split."""
    y = m.a(x)
    _, _, height, width = y.shape
    tokens = y.flatten(2).transpose(1, 2)
    tokens = F.gelu(tokens + m.grid.flatten(2).transpose(1, 2))
    boxes = m.wide(x).view(1, 2, 4, height, width).permute(0, 1, 3, 4, 2)
    grid = m.grid[:, :2].permute(0, 2, 3, 1)[:, None]
    centres = torch.sigmoid(boxes[..., :2]) + grid
    return [tokens.transpose(1, 2).reshape(y.shape), centres.permute(0, 1, 4, 2, 3).reshape(1, 4, height, width)]


BODIES = {"maps": _maps, "truths": _truths, "tokens": _tokens}


def network(body: Any, height: int, width: int) -> nn.Module:
    return Net(
        body, a=nn.Conv2d(3, C, 3, padding=1), b=nn.Conv2d(C + 5, 4, 3, padding=1), wide=nn.Conv2d(3, 8, 1),
        grid=noise(1, C, height, width), one=noise(1, 1, height, width, seed=1), row=noise(C, 1, width, seed=2),
        column=noise(1, C, height, 1, seed=3),
    )  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_constants_at_any_size_and_active_set(name: str, height: int, width: int, seed: int) -> None:
    net = network(BODIES[name], height, width)
    engine = assert_agrees(net, changing((3, height, width), seed=seed), tolerance=1e-4, gate=EXACT)
    assert not engine.program.info["report"]["islands"]


def test_a_constant_makes_nothing_active() -> None:
    """A still frame computes nothing; a change is computed where it is, and a concatenated constant stays."""
    net = Net(lambda m, x: m.b(torch.cat([m.a(x) * m.grid, m.grid], 1)), a=nn.Conv2d(3, C, 1), b=nn.Conv2d(2 * C, 2, 1),
              grid=noise(1, C, 6, 7))  # fmt: skip
    frame = noise(1, 3, 6, 7)
    moved = frame.clone()
    moved[..., 2, 3] += 1
    stream, fresh = (compiled(net, (frame,))[1].stream() for _ in range(2))
    stream(frame)
    stream(frame)
    assert stream.stats.active_macs == 0
    assert_same(flat(stream(moved)), flat(fresh(moved)))
    assert stream.stats.layers == {"a": 1 / 42, "b": 1 / 42}
