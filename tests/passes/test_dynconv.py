"""DynConv: residual blocks are found by their structure, and masked as the paper says."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx import graph as g
from skipfx import ops
from skipfx.capture import capture
from skipfx.errors import NothingToTransform, OptionError
from skipfx.model import SkipModel
from skipfx.options import DynConv, Hold
from skipfx.passes.residual_blocks import Block, find_blocks
from skipfx.recipe import classify
from skipfx.testing import drift, run_clip
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded


class Basic(nn.Module):
    """Two 3x3 convolutions, the first of them strided, beside x or its projection."""

    def __init__(self, channels: int = 4, stride: int = 1) -> None:
        super().__init__()
        self.p = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.q = nn.BatchNorm2d(channels)
        self.r = nn.Conv2d(channels, channels, 3, 1, 1)
        self.s = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.s(x) + self.r(F.relu(self.q(self.p(x)))))


class Bottleneck(nn.Module):
    """1x1, dilated 3x3, 1x1 with an activation at the end; the branch stands first in the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 2, 1), nn.SiLU(), nn.Conv2d(2, 2, 3, padding=2, dilation=2), nn.SiLU(), nn.Conv2d(2, 4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = torch.sigmoid(self.layers(x))
        return branch.add(x)


class Leaky(nn.Module):
    """A branch that somebody else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.conv(x)
        return x + inner, F.relu(inner)


class Squeezed(nn.Module):
    """A branch that looks at the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y * y.mean((2, 3), keepdim=True)


def blocks_of(model: nn.Module, *shape: int) -> list[Block]:
    return find_blocks(classify(capture(seeded(model), (torch.rand(1, *shape),))))


@pytest.mark.parametrize(
    "model, convs, stride",
    [
        (Basic(), 2, (1, 1)),
        (Basic(stride=2), 2, (2, 2)),
        (Bottleneck(), 3, (1, 1)),
        (nn.Sequential(nn.Conv2d(4, 4, 1), Basic(), nn.MaxPool2d(2), nn.ReLU()), 2, (1, 1)),
    ],
)
def test_blocks_are_found(model: nn.Module, convs: int, stride: tuple[int, int]) -> None:
    (block,) = blocks_of(model, 4, 9, 11)
    assert (len(block.convs), block.stride) == (convs, stride)


def test_of_nested_blocks_the_inner_ones_count() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(Basic(), Basic())

        def forward(self, x: Tensor) -> Any:
            return x + self.inner(x)

    assert len(blocks_of(Nested(), 4, 9, 11)) == 2


@pytest.mark.parametrize("model", [Leaky(), Squeezed(), nn.Conv2d(4, 4, 3)])
def test_what_is_no_block_is_left_alone(model: nn.Module) -> None:
    assert blocks_of(model, 4, 9, 11) == []
    with pytest.raises(NothingToTransform, match="no residual block that DynConv could mask"):
        transform(model, (torch.rand(1, 4, 9, 11),), gate=DynConv(target=0.5))


def learned(model: nn.Module, frame: Tensor, squeeze: bool = False, hold: Hold | None = None) -> SkipModel:
    """A model with masks that are open at about half of the positions of a frame."""
    gate = DynConv(target=0.5, squeeze=squeeze) if hold is None else DynConv(target=0.5, squeeze=squeeze, hold=hold)
    skip = transform(seeded(model), (frame,), gate=gate)
    generator = torch.Generator().manual_seed(3)
    units = {name: value for name, value in skip.graph_module.named_parameters() if "mask_" in name}
    with torch.no_grad():
        for name, value in units.items():
            if "bias" not in name:
                value.copy_(torch.rand(value.shape, generator=generator) - 0.5)
        score = masks(skip, frame, 0)[0]
        next(value for name, value in units.items() if "bias" in name).fill_(1e-3 - float(score.median()))  # no tie
    return skip


def masks(skip: SkipModel, frame: Tensor, argument: int | None = None) -> list[Tensor]:
    """The masks on a frame; or an argument of what makes them."""
    found = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n.target is ops.fires:
                found.append(result if argument is None else self.env[n.args[argument]])  # type: ignore[index]
            return result

    gm = skip.graph_module
    states = [torch.zeros(g.value(node).shape) for node in g.states(gm.graph)]
    with torch.no_grad():
        Watch(gm).run(frame, *states, torch.tensor(True))
    return found


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("model", [Basic(), Basic(stride=2), Bottleneck()])
@torch.no_grad()
def test_a_block_is_its_shortcut_where_its_mask_is_shut(model: nn.Module, squeeze: bool) -> None:
    frame = torch.rand(1, 4, 9, 11)
    skip = learned(model, frame, squeeze)
    (mask,) = masks(skip, frame)
    assert 0.2 < mask.float().mean() < 0.8
    units = {name.rpartition("mask_")[2]: value for name, value in skip.named_parameters() if "mask_" in name}
    stride = 2 if isinstance(model, Basic) and isinstance(model.s, nn.Conv2d) else 1
    score = F.conv2d(frame, units["weight"], units["bias"], stride, units["weight"].shape[2] // 2)
    if squeeze:
        score = score + (frame.mean((2, 3), keepdim=True) * units["squeeze"]).sum(1, keepdim=True)
    assert torch.equal(mask, score > 0)
    if isinstance(model, Basic):
        shortcut = model.s(frame)
        expected = F.relu(shortcut + torch.where(mask, model.r(F.relu(model.q(model.p(frame)))), 0.0))
    else:
        expected = frame + torch.where(mask, torch.sigmoid(model.layers(frame)), 0.0)  # type: ignore[operator]
    # batch-norm folding reorders float32 arithmetic
    torch.testing.assert_close(skip(frame, skip.init_state())[0], expected, rtol=1e-5, atol=1e-5)


@given(st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 2]), st.integers(0, 99))
def test_what_a_mask_needs_is_what_its_positions_read(height: int, width: int, stride: int, seed: int) -> None:
    frame = torch.rand(1, 4, height, width)
    (block,) = blocks_of(Basic(stride=stride), 4, height, width)
    size = g.value(block.add).shape[2:]
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) > 0.7
    (_, readers), (_, last) = block.convs
    assert last == () and readers == (((size[0], size[1]), (3, 3), (1, 1), (1, 1), (1, 1)),)
    needed = np.zeros(size, bool)
    for i, j in np.argwhere(mask.numpy()):
        needed[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = True
    found = ops.covered(mask[None, None], *readers[0])
    assert np.array_equal(found[0, 0].numpy(), needed) and frame.shape[2:] == (height, width)


@pytest.mark.parametrize("hold", [None, Hold(threshold=0.1, input_threshold=0.02)])
def test_single_images_need_no_state_and_hold_adds_it(hold: Hold | None) -> None:
    clip = moving_clip(4, 9, 11)
    gm = learned(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), Basic()), clip[0][0], hold=hold).graph_module
    stream, fresh = run_clip(gm, clip), run_clip(gm, clip, refresh_all=True)
    if hold is None:
        assert g.states(gm.graph) == []
        assert all(torch.equal(mine[0], other[0]) for mine, other in zip(stream, fresh, strict=True))
    else:
        assert drift(gm, clip) <= 1 + 1e-4  # type: ignore[operator]
        assert not torch.equal(stream[-1][0], fresh[-1][0])
        exact = learned(Basic(), clip[0][0], hold=Hold(threshold=0, input_threshold=0)).graph_module
        pairs = zip(run_clip(exact, clip), run_clip(exact, clip, refresh_all=True), strict=True)
        assert all(torch.equal(mine[0], other[0]) for mine, other in pairs)


def test_untrained_masks_are_open() -> None:
    model, frame = seeded(Basic()), torch.rand(1, 4, 9, 11)
    skip = transform(model, (frame,), gate=DynConv(target=0.3, squeeze=True))
    torch.testing.assert_close(skip(frame, skip.init_state())[0], model(frame), rtol=1e-5, atol=1e-5)


def test_thresholds_of_layers_are_those_of_its_hold_gate() -> None:
    frame = moving_clip(4, 9, 11)[0][0]
    gate = DynConv(target=0.5, hold=Hold(threshold=0.1, input_threshold=0.02))
    model = seeded(nn.Sequential(nn.Conv2d(4, 4, 3), Basic(), nn.Conv2d(4, 4, 1)))

    def held(thresholds: dict[str, float]) -> int:
        graph = transform(model, (frame,), gate=gate, thresholds=thresholds).graph_module.graph
        return len(graph.find_nodes(op="call_function", target=ops.changed))

    assert held({}) - held({"0": 0.0}) == 1
    with pytest.raises(OptionError, match="matches no module"):
        transform(model, (frame,), gate=gate, thresholds={"nowhere": 0})
