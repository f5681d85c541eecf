"""What the rules refuse, each with its reason."""

import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from skipfx.passes.operator_page import refusals
from skipfx.passes.rules import Local, Refuse, arithmetic, conv, local, move, pool, reduce, resize, shape, unary
from tests.passes.applied import Function, applied

aten = torch.ops.aten

REFUSED: dict[str, Function] = {
    "a running sum works along a sequence": lambda x, p: x.cumsum(1),
    "group norm takes its statistics over the whole picture": lambda x, p: F.group_norm(x, 3),
    "sampling reads places that are computed from the frame": lambda x, p: F.grid_sample(
        x, x[:, :2].permute(0, 2, 3, 1)
    ),
    "attention compares every position": lambda x, p: F.scaled_dot_product_attention(x, x, x),
    "true and false are made at the end": lambda x, p: x > 0,
    "skipfx does not know logcumsumexp": lambda x, p: torch.logcumsumexp(x, 1),
    "a softmax over rows or columns": lambda x, p: F.softmax(x, 2),
    "lays the picture out as .1, 42, 3.": lambda x, p: x.flatten(2).transpose(1, 2),
    "is no float map": lambda x, p: x + x.flatten(2).sum((0, 1)).view(6, 7),
    "change rows with columns": lambda x, p: x.reshape(1, 3, 7, 6),
    "mixes 70 lines": lambda x, p: F.adaptive_avg_pool2d(F.interpolate(x, size=(139, 7)), (2, 7)),
    "computed from the frame": lambda x, p: F.conv2d(x, x.mean((0, 2, 3), keepdim=True)[:, :3]),
    "padding with different constants": lambda x, p: F.pad(
        F.pad(x.flatten(2), (1, 0), value=1.0), (0, 5), value=2.0
    ).view(1, 3, 6, 8),
    "padding of channels": lambda x, p: F.pad(x, (0, 0, 0, 0, 1, 1)),
    "takes in 6 lines": lambda x, p: x.reshape(1, 18, 1, 7).repeat(1, 1, 3000, 1),
    "mixes channels with rows": lambda x, p: x.sum((1, 2), keepdim=True),
    "over an uneven border": lambda x, p: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, divisor_override=3),
    "instance norm takes its statistics": lambda x, p: F.instance_norm(x),
}


canonical = cache(lambda: applied(REFUSED))


def refused_rule(reason: str) -> Local:
    """What the rule of a call says that should be refused."""
    gm, nodes = canonical()
    return local(gm, nodes[reason])


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_say_why(reason: str) -> None:
    with pytest.raises(Refuse, match=reason):
        refused_rule(reason)


def by_hand(target: Any, *args: Any) -> tuple[fx.GraphModule, fx.Node]:
    """A call on a map `X` and a whole number `N` in a form that no pass leaves behind."""
    graph = fx.Graph()
    values = {"X": torch.zeros(1, 3, 6, 7), "N": torch.zeros((), dtype=torch.int64)}
    nodes = {name: graph.placeholder(name) for name in values}
    for name, value in values.items():
        nodes[name].meta["val"] = value
    node = graph.call_function(target, tuple(fx.node.map_aggregate(args, lambda arg: nodes.get(str(arg), arg))))
    node.meta["val"] = values["X"]
    return fx.GraphModule(nn.Module(), graph), node


BY_HAND: dict[str, tuple[Any, ...]] = {
    "concatenation that is not along the channels": (aten.cat.default, ["X", "X"], 2),
    "slicing that is not a run of channels": (aten.slice.Tensor, "X", 2, 0, 6),
    "resizing to a size that is computed from the frame": (aten.upsample_nearest2d.default, "X", ["N", 7]),
}


@pytest.mark.parametrize("reason", BY_HAND)
def test_forms_that_passes_take_away_are_refused(reason: str) -> None:
    with pytest.raises(Refuse, match=reason):
        local(*by_hand(*BY_HAND[reason]))


def test_every_reason_of_the_rules_is_tested() -> None:
    messages = list(BY_HAND)
    for reason in REFUSED:
        with pytest.raises(Refuse) as refused:
            refused_rule(reason)
        messages.append(str(refused.value))
    for module in (arithmetic, conv, move, pool, reduce, resize, shape, unary):
        for reason in refusals(module):
            pattern = re.escape(reason).replace(re.escape("..."), ".*")
            assert any(re.search(pattern, message) for message in messages), f"add a call to REFUSED: {reason}"
