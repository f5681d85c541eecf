"""Gives reductions over the channels one form: sum, mean, maximum and minimum that keep the axis, and layer norm.

1. A reduction that drops the axis keeps it, and the axis goes behind it. `max(x, 1)` without its indices is a maximum.
2. Variance, standard deviation and L2 norm become means or sums of squares; argmax finds a number, then an integer.
3. (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) is a layer norm.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.base import Pass
from skipfx.spec import Stage

aten = torch.ops.aten
PLAIN: dict[Any, Any] = {
    aten.sum.dim_IntList: aten.sum.dim_IntList,
    aten.mean.dim: aten.mean.dim,
    aten.amax.default: aten.amax.default,
    aten.amin.default: aten.amin.default,
}
EXTREMES: dict[Any, Any] = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
SPREADS = {aten.var.dim, aten.var.correction, aten.std.dim, aten.std.correction}
ROOTS = {aten.std.dim, aten.std.correction}
Insert = Callable[..., fx.Node]


@dataclass(frozen=True)
class NormaliseReductions(Pass):
    """Reductions over channels in few forms."""

    name = "normalise_reductions"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.op != "call_function":
                continue

            def insert(target: Callable[..., Any], *args: Any, like: fx.Node = node) -> fx.Node:
                return g.insert(gm.graph, target, args, like, "unknown")

            with gm.graph.inserting_before(node):
                plain = _reduced(node, insert) or _layer_norm(gm, node, insert)
            if plain is not None:
                node.replace_all_uses_with(plain)
                gm.graph.erase_node(node)
                modified = True
        return modified


def _reduced(node: fx.Node, insert: Insert) -> fx.Node | None:
    """A reduction over the channels of a map, with the axis kept."""
    call = node
    if node.target is operator.getitem and node.args[1] == 0:
        call = node.args[0]  # type: ignore[assignment]
    source: Any = call.args[0] if call.args else None
    if not g.is_map(source) or not isinstance(call.target, torch._ops.OpOverload):
        return None
    args = g.arguments(call)
    dim = args.get("dim")
    if [axis % 4 for axis in ([dim] if isinstance(dim, int) else dim or ())] != [1] or args.get("dtype") is not None:
        return None
    keep = bool(args.get("keepdim"))
    if node.target in PLAIN and keep:
        return None
    value = _kept(node, call, args, source, insert)
    if value is None or keep:
        return value
    return insert(aten.squeeze.dim, value, 1)


def _kept(node: fx.Node, call: fx.Node, args: dict[str, Any], source: fx.Node, insert: Insert) -> fx.Node | None:
    if call.target in PLAIN:
        return insert(PLAIN[call.target], source, [1], True)
    if call.target in EXTREMES and node is not call:
        return insert(EXTREMES[call.target], source, [1], True)
    if call.target is aten.linalg_vector_norm.default and args["ord"] == 2:
        return insert(
            aten.sqrt.default, insert(aten.sum.dim_IntList, insert(aten.mul.Tensor, source, source), [1], True)
        )
    if call.target is aten.argmax.default:
        return insert(ops.integer, insert(ops.channel_argmax, source))
    if call.target in SPREADS:
        return _spread(call, args, source, insert)
    return None


def _spread(call: fx.Node, args: dict[str, Any], source: fx.Node, insert: Insert) -> fx.Node:
    size = g.value(source).shape[1]
    correction = args.get("correction", int(bool(args.get("unbiased", True))))
    correction = 1 if correction is None else correction
    centred = insert(aten.sub.Tensor, source, insert(aten.mean.dim, source, [1], True))
    total = insert(aten.sum.dim_IntList, insert(aten.mul.Tensor, centred, centred), [1], True)
    variance = insert(aten.div.Tensor, total, float(max(0, size - correction)))
    return insert(aten.sqrt.default, variance) if call.target in ROOTS else variance


def _layer_norm(gm: fx.GraphModule, node: fx.Node, insert: Insert) -> fx.Node | None:
    """Recognises a layer norm that was written out."""
    if node.target is not aten.div.Tensor:
        return None
    centred, root = node.args
    variance = _argument(root, aten.sqrt.default)
    shifted = _arguments(variance, aten.add.Tensor)
    square = _argument(shifted[0], aten.mean.dim) if shifted and isinstance(shifted[1], float | int) else None
    base, source = _base(square), _centred(centred)
    if source is None or base is not centred or not g.is_map(node):
        return None
    return insert(ops.channel_norm, source, float(shifted[1]))


def _base(square: Any) -> Any:
    """X of x^2."""
    power = _arguments(square, aten.pow.Tensor_Scalar)
    product = _arguments(square, aten.mul.Tensor)
    if product:
        return product[0] if product[0] is product[1] else None
    return power[0] if power and power[1] == 2 else _argument(square, aten.square.default)


def _centred(node: Any) -> Any:
    """X of x - mean(x) over the channels."""
    found = _arguments(node, aten.sub.Tensor)
    return found[0] if found and _argument(found[1], aten.mean.dim) is found[0] and g.is_map(found[0]) else None


def _argument(node: Any, target: Any) -> Any:
    """The first argument of a call of the target; a mean must be over the channels."""
    args = _arguments(node, target)
    if not args or (target is aten.mean.dim and (list(args[1]) != [1] or not args[2])):
        return None
    return args[0]


def _arguments(node: Any, target: Any) -> tuple[Any, ...]:
    return node.args if isinstance(node, fx.Node) and node.target is target else ()
