"""Reductions over the channels of a position, and what is built of them."""

from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.rules.common import Local, Refuse, rule

aten = torch.ops.aten
KINDS: dict[Any, str] = {
    aten.sum.dim_IntList: "sum",
    aten.mean.dim: "sum",
    aten.amax.default: "max",
    aten.amin.default: "min",
}
SOFTMAX: dict[Any, str] = {
    aten.softmax.int: "softmax",
    aten._softmax.default: "softmax",
    aten.log_softmax.int: "log_softmax",
    aten._log_softmax.default: "log_softmax",
}


@rule(*KINDS)
def reduction(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Sum, mean, largest and smallest value over the channels of a position.

    Variance, standard deviation and L2 norm are built of them. Over rows and columns they are pools.
    """
    args = g.arguments(node)
    if [dim % 4 for dim in args["dim"] or ()] != [1]:
        raise Refuse("a reduction that mixes channels with rows or columns")
    factor = 1 / g.value(args["self"]).shape[1] if node.target is aten.mean.dim else 1.0
    return Local("reduce", (args["self"],), attrs={"kind": KINDS[node.target], "number": factor})


@rule(*SOFTMAX)
def softmax(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Softmax and log-softmax over the channels."""
    args = g.arguments(node)
    if args["dim"] % 4 != 1:
        raise Refuse("a softmax over rows or columns compares positions with each other")
    return Local("reduce", (args["self"],), attrs={"kind": SOFTMAX[node.target], "number": 0.0})


@rule(ops.channel_norm)
def channel_norm(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Layer norm over the channels of a position, whichever way it is written."""
    return Local("reduce", (node.args[0],), attrs={"kind": "norm", "number": node.args[1]})  # type: ignore[arg-type]


@rule(ops.channel_argmax)
def argmax(gm: fx.GraphModule, node: fx.Node) -> Local:
    """The number of the largest channel; it becomes an integer at the end."""
    return Local("reduce", (node.args[0],), attrs={"kind": "argmax", "number": 0.0})  # type: ignore[arg-type]
