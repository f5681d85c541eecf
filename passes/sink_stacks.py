"""Sums and softmaxes over a short axis that stacks maps (selective kernels, split attention): one map after another.

sum(stack(x, y), axis)      ->  x + y
softmax(stack(x, y), axis)  ->  stack(exp(x - m) / t, exp(y - m) / t),  m the larger, t the sum
"""

from functools import reduce
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.moves import moved

aten = torch.ops.aten
MAX_PARTS = 8


def unstacked(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The operator as arithmetic between the stacked maps; None where it is no such operator."""
    move = node.args[0] if node.args else None
    if not isinstance(move, fx.Node) or move.target is not ops.rearrange or g.value(move).dim() != 5:
        return None
    args = g.arguments(node)
    if node.target is aten.sum.dim_IntList and len(args["dim"]) == 1 and not args["keepdim"]:
        parts = _parts(gm, move, args["dim"][0] % 5)
        return _merged(gm, parts, aten.add.Tensor, node) if parts else None
    if node.target is aten.softmax.int:
        return _softmax(gm, node, move, args["dim"] % 5)
    return None


def _parts(gm: fx.GraphModule, move: fx.Node, dim: int) -> list[fx.Node]:
    """The maps along an axis; none where there are too many, or they are no maps."""
    args: Any = move.args
    count, rest = g.value(move).shape[dim], [*g.value(move).shape[:dim], *g.value(move).shape[dim + 1 :]]
    if count > MAX_PARTS or rest[0] != 1:
        return []
    return [moved(gm.graph, args[0], (*args[1], ("select.int", dim, index)), move) for index in range(count)]


def _merged(gm: fx.GraphModule, parts: list[fx.Node], target: Any, node: fx.Node) -> fx.Node:
    return reduce(lambda left, right: g.insert(gm.graph, target, (left, right), node, "unknown"), parts)


def _softmax(gm: fx.GraphModule, node: fx.Node, move: fx.Node, dim: int) -> fx.Node | None:
    parts = _parts(gm, move, dim)
    if not parts:
        return None

    def insert(target: Any, *args: Any) -> fx.Node:
        return g.insert(gm.graph, target, args, node, "unknown")

    largest = _merged(gm, parts, aten.maximum.default, node)
    powers = [insert(aten.exp.default, insert(aten.sub.Tensor, part, largest)) for part in parts]
    total = _merged(gm, powers, aten.add.Tensor, node)
    joined = insert(aten.cat.default, [insert(aten.div.Tensor, power, total) for power in powers], 1)
    apart = (1, len(parts), *g.value(parts[0]).shape[1:])
    return insert(ops.rearrange, joined, (("reshape.default", apart), ("movedim.int", 1, dim)))
