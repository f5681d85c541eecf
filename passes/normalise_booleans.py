"""Makes truth values numbers: comparisons of maps return 1.0 or 0.0, so that they are feature maps like others.

`and` is a minimum, `or` a maximum, `not` one minus it; `where` and `masked_fill` choose where the number is not zero.
What reads truth values and is none of these (an output of the model, say) keeps the original comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.base import Pass
from skipfx.passes.rules.arithmetic import ARITHMETIC
from skipfx.spec import Stage

aten = torch.ops.aten
COMPARE = {
    overload: name
    for name in ("gt", "lt", "ge", "le", "eq", "ne")
    for overload in (getattr(aten, name).Scalar, getattr(aten, name).Tensor)
}
AND = {aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor, aten.mul.Tensor}
OR = {aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor, aten.add.Tensor}
XOR = {aten.logical_xor.default, aten.bitwise_xor.Tensor, aten.__xor__.Tensor}
NOT = {aten.logical_not.default, aten.bitwise_not.default}
CASTS = {aten._to_copy.default, aten.to.dtype}
WHERE = {aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar}
FILL = {aten.masked_fill.Scalar, aten.masked_fill.Tensor}
Insert = Callable[..., fx.Node]


@dataclass(frozen=True)
class NormaliseBooleans(Pass):
    """Comparisons, logic and choices of maps become arithmetic on 1.0 and 0.0."""

    name = "normalise_booleans"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        numbers = _constants(gm)
        for node in list(gm.graph.nodes):
            if node.op != "call_function":
                continue
            with gm.graph.inserting_after(node):
                found = _number(gm, node, numbers)
            if found is None:
                continue
            if g.value(node).dtype == torch.bool:
                numbers[node] = found
            else:
                node.replace_all_uses_with(found)
                gm.graph.erase_node(node)
        return bool(numbers)


def _constants(gm: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Constant truth values as numbers, where choices or logic read them."""
    found = {}
    for node in gm.graph.find_nodes(op="get_attr"):
        tensor = g.parameter(gm, node)
        readers = {user.target for user in node.users}
        if tensor is not None and tensor.dtype == torch.bool and readers & (AND | OR | XOR | WHERE | FILL):
            with gm.graph.inserting_after(node):
                found[node] = g.add_parameter(gm, f"{node.name}_number", tensor.float(), node)
    return found


def _number(gm: fx.GraphModule, node: fx.Node, numbers: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """The float map that stands for a node, if it is a truth value or reads one."""
    known: list[Any] = [numbers.get(arg, arg) if isinstance(arg, fx.Node) else arg for arg in node.args]

    def insert(target: Callable[..., Any], *args: Any) -> fx.Node:
        return g.insert(gm.graph, target, args, node, "unknown")

    if node.target in COMPARE and _is_map_of(node, torch.bool) and all(_is_number(gm, arg) for arg in known):
        return insert(ops.compare, *known, COMPARE[node.target])
    if not any(arg in numbers for arg in node.all_input_nodes):
        return None
    if _is_map_of(node, torch.bool) and all(arg in numbers for arg in node.all_input_nodes):
        return _logic(node, known, insert)
    if not g.is_map(node):
        return None
    if node.target in CASTS:
        found: fx.Node = known[0]
        return found
    if node.target in WHERE and node.args[0] in numbers:
        return insert(ops.choose, *known)
    if node.target in FILL and node.args[1] in numbers:
        return insert(ops.choose, known[1], known[2], known[0])
    if node.target in ARITHMETIC:
        return insert(node.target, *known)  # type: ignore[arg-type]
    return None


def _logic(node: fx.Node, known: list[Any], insert: Insert) -> fx.Node | None:
    if node.target in AND:
        return insert(aten.minimum.default, *known)
    if node.target in OR:
        return insert(aten.maximum.default, *known)
    if node.target in XOR:
        return insert(ops.compare, *known, "ne")
    if node.target in NOT:
        return insert(aten.rsub.Scalar, known[0], 1)
    return None


def _is_map_of(node: fx.Node, dtype: torch.dtype) -> bool:
    value = g.value(node) if isinstance(node.meta.get("val"), torch.Tensor) else None
    return value is not None and value.dim() == 4 and value.shape[0] == 1 and value.dtype == dtype


def _is_number(gm: fx.GraphModule, arg: Any) -> bool:
    """Whether a rule may read it: a float map, a float parameter or a number."""
    tensor = g.parameter(gm, arg)
    return isinstance(arg, int | float) or g.is_map(arg) or (tensor is not None and tensor.dtype == torch.float32)
