"""What becomes sparse, what becomes an island, and which values are materialised."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx import graph as g
from skipfx.capture import capture
from skipfx.errors import NothingToTransform
from skipfx.passes.fuse_chains import MAX_OPERANDS
from skipfx.recipe import classify
from tests.networks import Branches, Squeeze, seeded


class _Network(nn.Module):
    def __init__(self, function: Callable[["_Network", Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), function

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def classified(function: Callable[[_Network, Tensor], object], exclude: tuple[str, ...] = ()) -> fx.GraphModule:
    return classify(capture(seeded(_Network(function)), (torch.rand(1, 4, 8, 8),)), exclude)


def held(gm: fx.GraphModule) -> list[str]:
    """The names of the materialised values."""
    return [node.name for node in gm.graph.nodes if g.record(node).held]


def test_contrast_is_an_island_between_local_parts() -> None:
    gm = classify(capture(seeded(Squeeze()), (torch.rand(1, 3, 8, 8),)))
    roles = {node.name: g.record(node).role for node in gm.graph.nodes if node.op == "call_function"}
    assert roles["conv2d"] == roles["conv2d_1"] == roles["mul"] == "local"
    assert roles["std"] == roles["linear"] == roles["sigmoid"] == "island"
    assert all(g.record(node).reason for node in gm.graph.nodes if g.record(node).role == "island")


def test_pointwise_operators_swallow_the_convolution_before_them() -> None:
    gm = classified(lambda net, x: net.b(F.relu(net.a(x) * 2) + x))
    assert held(gm) == ["add", "conv2d_1"]


def test_a_value_with_two_readers_is_materialised() -> None:
    def network(net: _Network, x: Tensor) -> object:
        y = net.a(x)
        return net.b(y.relu()) + y

    # the sum takes the convolution b; a is read twice
    assert held(classified(network)) == ["conv2d", "relu", "add"]


def test_two_convolutions_do_not_share_a_group() -> None:
    assert held(classified(lambda net, x: net.a(x) + net.b(x))) == ["conv2d", "add"]


def test_an_output_is_materialised() -> None:
    def network(net: _Network, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.a(x)
        return y, y.relu()

    assert held(classified(network)) == ["conv2d", "relu"]


def test_views_hold_nothing_and_their_inputs_are_materialised() -> None:
    assert held(classified(lambda net, x: net.b(torch.cat([net.a(x)[:, :2], x[:, 2:]], 1)))) == ["conv2d", "conv2d_1"]


def test_a_group_reads_a_limited_number_of_maps() -> None:
    def network(net: _Network, x: Tensor) -> object:
        total = net.a(x)
        for value in [net.b(x + step) for step in range(MAX_OPERANDS + 2)]:
            total = total + value
        return total

    # a long sum is cut once it reads MAX_OPERANDS other maps
    adds = [name for name in held(classified(network)) if name.startswith("add")]
    assert len(adds) > 1


def test_a_changed_shape_is_not_fused() -> None:
    assert held(classified(lambda net, x: net.a(x)[:, :1].sigmoid() * net.b(x))) == ["conv2d", "sigmoid", "mul"]


def test_excluded_modules_are_islands() -> None:
    gm = classified(lambda net, x: net.b(net.a(x)), exclude=("a",))
    conv = next(node for node in gm.graph.nodes if node.name == "conv2d")
    assert (g.record(conv).role, g.record(conv).reason) == ("island", "excluded by 'a'")


@pytest.mark.parametrize("function", [lambda net, x: x.relu(), lambda net, x: net.a(x.mean((2, 3), True)).sum()])
def test_a_model_with_no_local_convolution_is_refused(function: Callable[[_Network, Tensor], object]) -> None:
    excluded = () if "relu" in function.__code__.co_names else ("a",)
    with pytest.raises(NothingToTransform) as caught:
        classified(function, excluded)
    assert caught.value.exit_code == 4


def test_the_refusal_lists_the_reasons() -> None:
    with pytest.raises(NothingToTransform, match=r"excluded by 'a'\n  excluded by 'b'"):
        classified(lambda net, x: net.a(x) + net.b(x), exclude=("a", "b"))


@pytest.mark.parametrize(
    "layer, pattern, expected",
    [
        ("stem.conv", "stem", True),
        ("stem.conv", "stem.*", True),
        ("stem.conv", "conv", False),
        ("stem2.conv", "stem", False),
        ("", "*", True),
        ("body.3.act", "body.[0-3]", True),
    ],
)
def test_patterns_name_a_module_or_one_that_holds_it(layer: str, pattern: str, expected: bool) -> None:
    assert g.matches(layer, pattern) is expected


def test_layers_carry_the_names_of_modules() -> None:
    gm = classify(capture(seeded(Branches()), (torch.rand(1, 3, 12, 16),)))
    layers = [g.record(node).layer for node in gm.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert layers == ["stem", "body", "down", "head"]
