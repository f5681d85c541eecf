"""The passes from captured to canonical: one form, whatever the author of the model wrote."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from skipfx import graph as g
from skipfx import ops
from skipfx.capture import capture, stream_graph
from skipfx.passes import pipeline
from skipfx.passes.base import run_passes
from tests.networks import seeded

aten = torch.ops.aten


def canonical(model: nn.Module, frame: Tensor) -> fx.GraphModule:
    """The canonical graph of a model, after checking that it still computes the model."""
    gm = run_passes(stream_graph(capture(model, (frame,))), pipeline.canonical())
    outputs, _ = gm(frame, torch.tensor(True))
    # batch-norm folding reorders float32 arithmetic: 1e-5 is some hundred roundings
    torch.testing.assert_close(list(outputs), _flat(model(frame)), rtol=1e-5, atol=1e-5)
    return gm


def _flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def targets(gm: fx.GraphModule) -> list[Any]:
    """What the graph calls, in order."""
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize("bias", [False, True])
def test_batchnorm_folds_into_the_convolution_before_it(padding: Any, bias: bool) -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3, padding=padding, bias=bias), nn.BatchNorm2d(4), nn.ReLU()))
    gm = canonical(model, torch.randn(1, 3, 7, 9))
    assert targets(gm) == [aten.conv2d.default, aten.relu.default]


def test_batchnorm_without_affine_parameters_folds() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)))
    assert targets(canonical(model, torch.randn(1, 3, 7, 9))) == [aten.conv2d.default]


class _SharedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, self.norm(y)


def test_batchnorm_is_spelled_out_where_the_convolution_has_other_readers() -> None:
    gm = canonical(seeded(_SharedConv()), torch.randn(1, 3, 7, 9))
    assert targets(gm) == [aten.conv2d.default, aten.mul.Tensor, aten.add.Tensor]


def test_batchnorm_before_the_convolution_becomes_arithmetic() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)))
    gm = canonical(model, torch.randn(1, 3, 7, 9))
    assert targets(gm) == [aten.mul.Tensor, aten.add.Tensor, aten.relu.default, aten.conv2d.default]


@pytest.mark.parametrize("nothing", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity()])
def test_what_does_nothing_in_inference_is_gone(nothing: nn.Module) -> None:
    gm = canonical(seeded(nn.Sequential(nn.Conv2d(3, 4, 1), nothing, nn.ReLU())), torch.randn(1, 3, 5, 5))
    assert targets(gm) == [aten.conv2d.default, aten.relu.default]


class _Copies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.float().contiguous()).clone()
        y = y.view(y.shape).expand(y.shape)[:, :, 0:99].detach()
        out: Tensor = F.pad(y, (0, 0, 0, 0))
        return out


def test_copies_casts_and_their_assertions_are_gone() -> None:
    assert targets(canonical(seeded(_Copies()), torch.randn(1, 3, 5, 5))) == [aten.conv2d.default]


class _InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.mul_(2).add_(1)
        y[:, 0] = 0
        out: Tensor = F.relu(y, inplace=True)
        return out


def test_in_place_operators_become_functional() -> None:
    gm = canonical(seeded(_InPlace()), torch.randn(1, 3, 5, 5))
    assert not [t for t in targets(gm) if hasattr(t, "_schema") and t._schema.is_mutable]
    assert aten.mul.Tensor in targets(gm)


@pytest.mark.parametrize("kernel, dilation", [(3, 1), (2, 1), (4, 1), (2, 3), ((2, 3), 1)])
def test_same_padding_becomes_numbers(kernel: Any, dilation: int) -> None:
    model = seeded(nn.Sequential(nn.Conv2d(2, 3, kernel, padding="same", dilation=dilation)))
    gm = canonical(model, torch.randn(1, 2, 8, 9))
    spread = [dilation * (k - 1) for k in ([kernel] * 2 if isinstance(kernel, int) else kernel)]
    uneven = any(total % 2 for total in spread)
    assert targets(gm) == ([ops.border] if uneven else []) + [aten.conv2d.default]


def test_valid_padding_becomes_numbers() -> None:
    gm = canonical(seeded(nn.Sequential(nn.Conv2d(2, 3, 3, padding="valid"))), torch.randn(1, 2, 8, 9))
    assert targets(gm) == [aten.conv2d.default]


@pytest.mark.parametrize(
    "pad, absorbed",
    [
        (nn.ZeroPad2d(2), True),
        (nn.ZeroPad2d((1, 1, 3, 3)), True),
        (nn.ZeroPad2d((1, 2, 1, 1)), False),
        (nn.ZeroPad2d((-1, -1, 0, 0)), False),
        (nn.ConstantPad2d(1, 0.5), False),
        (nn.ReflectionPad2d(1), False),
    ],
)
def test_zero_padding_moves_into_the_convolution_where_it_is_even(pad: nn.Module, absorbed: bool) -> None:
    gm = canonical(seeded(nn.Sequential(pad, nn.Conv2d(2, 3, 3, padding=1))), torch.randn(1, 2, 8, 9))
    assert (targets(gm) == [aten.conv2d.default]) is absorbed


class _Parts(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 6, 1), how

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        if self.how == "chunk":
            return tuple(torch.chunk(y, 4, 1))[::2]
        sizes: Any = 4 if self.how == "split" else [1, 3, 2]
        return torch.split(y, sizes, 1)[-1], torch.split(y, sizes, 1)[0]


@pytest.mark.parametrize("how", ["chunk", "split", "split sizes"])
def test_split_and_chunk_become_slices(how: str) -> None:
    gm = canonical(seeded(_Parts(how)), torch.randn(1, 3, 5, 5))
    assert set(targets(gm)) == {aten.conv2d.default, aten.slice.Tensor}


def test_weight_norm_is_evaluated() -> None:
    conv = nn.Conv2d(3, 4, 3)
    weight_norm(conv)
    gm = canonical(nn.Sequential(conv).eval(), torch.randn(1, 3, 5, 5))
    assert targets(gm) == [aten.conv2d.default]
    weight = g.parameter(gm, next(n for n in gm.graph.nodes if n.target is aten.conv2d.default).args[1])
    assert weight is not None and torch.equal(weight, conv.weight)


class _Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + 0 * torch.rand(1, 4, 5, 5)
        return out


def test_random_numbers_are_no_constants() -> None:
    gm = canonical(seeded(_Noisy()), torch.randn(1, 3, 5, 5))
    assert aten.mul.Tensor in targets(gm)  # it reads the numbers of each frame


def test_views_outlive_the_copies_that_made_them_possible() -> None:
    class Shuffles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(1, 2, 3, 4, 5).transpose(1, 2).contiguous().view(1, 6, 4, 5)

    gm = canonical(Shuffles(), torch.randn(1, 6, 4, 5))
    assert targets(gm) == [ops.rearrange]
