"""Arithmetic of several operands at one position: maps, per-channel parameters and numbers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from skipfx import expr as e
from skipfx import graph as g
from skipfx import ops
from skipfx.expr import Expr, const
from skipfx.numbering import number
from skipfx.passes.rules.common import Local, Refuse, rule
from skipfx.passes.rules.unary import log1p, power, trunc

aten = torch.ops.aten


class Operands:
    """Sorts the operands of a call into maps, per-channel parameters and numbers."""

    def __init__(self, gm: fx.GraphModule, node: fx.Node) -> None:
        self.gm, self.node, self.args = gm, node, _arguments(node)
        self.maps: list[fx.Node] = []
        self.parameters: list[fx.Node] = []

    def __getitem__(self, name: str) -> Expr:
        """The leaf that stands for an operand."""
        arg = self.args[name]
        if isinstance(arg, int | float):
            return const(arg)
        tensor = g.parameter(self.gm, arg)
        return self._map(arg) if tensor is None else self._parameter(arg, tensor)

    def number(self, name: str) -> float:
        """An argument that is a number."""
        return float(self.args[name])

    def local(self, expr: Expr) -> Local:
        """The operator as a whole."""
        return Local("pointwise", tuple(self.maps), expr=expr, channels=tuple(self.parameters))

    def _parameter(self, arg: fx.Node, tensor: torch.Tensor) -> Expr:
        if tensor.numel() == 1:
            return const(float(tensor.detach()))
        if varies(self.node, tensor):
            return self._map(arg)
        return ("channel", number(self.parameters, arg))

    def _map(self, arg: Any) -> Expr:
        if not g.is_map(arg):
            raise Refuse("arithmetic with a value that is no float map [1, C, H, W]")
        return ("input", number(self.maps, arg))


def varies(node: fx.Node, constant: torch.Tensor) -> bool:
    """Whether a constant that an operator reads has more than one value per channel: then it is a map."""
    per_channel = constant.dim() > 2 and constant.numel() == constant.shape[-3]
    prelu_slope = node.target is aten.prelu.default and constant.dim() == 1
    return constant.numel() > 1 and not per_channel and not prelu_slope


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments by name, also of the functions that skipfx puts in."""
    if node.target is ops.compare:
        return dict(zip(("self", "other", "how"), node.args, strict=True))
    if node.target is ops.choose:
        return dict(zip(("condition", "self", "other"), node.args, strict=True))
    return g.arguments(node)


def _scaled(expr: Expr, factor: float) -> Expr:
    return expr if factor == 1 else ("mul", const(factor), expr)


def _divide(a: Operands) -> Expr:
    quotient: Expr = ("div", a["self"], a["other"])
    mode = a.args.get("rounding_mode")
    return trunc(quotient) if mode == "trunc" else ("floor", quotient) if mode == "floor" else quotient


def _power(a: Operands) -> Expr:
    exponent = a["exponent"]
    return power(a["self"], exponent[1]) if exponent[0] == "const" else ("pow", a["self"], exponent)


def _clamp(a: Operands) -> Expr:
    result = a["self"]
    if a.args["min"] is not None:
        result = ("max", result, a["min"])
    return result if a.args["max"] is None else ("min", result, a["max"])


def _remainder(a: Operands) -> Expr:
    return ("sub", a["self"], ("mul", ("floor", ("div", a["self"], a["other"])), a["other"]))


def _fmod(a: Operands) -> Expr:
    return ("sub", a["self"], ("mul", trunc(("div", a["self"], a["other"])), a["other"]))


def _atan2(y: Expr, x: Expr) -> Expr:
    turn: Expr = ("select", ("gt", const(0), y), const(-math.pi), const(math.pi))
    angle: Expr = ("add", ("atan", ("div", y, x)), ("select", ("gt", const(0), x), turn, const(0)))
    return ("select", ("add", ("abs", x), ("abs", y)), angle, const(0))


def _logaddexp(a: Expr, b: Expr) -> Expr:
    return ("add", ("max", a, b), log1p(("exp", ("sub", const(0), ("abs", ("sub", a, b))))))


ARITHMETIC: dict[Any, Callable[[Operands], Expr]] = {
    aten.add.Tensor: lambda a: ("add", a["self"], _scaled(a["other"], a.number("alpha"))),
    aten.sub.Tensor: lambda a: ("sub", a["self"], _scaled(a["other"], a.number("alpha"))),
    aten.rsub.Scalar: lambda a: ("sub", a["other"], _scaled(a["self"], a.number("alpha"))),
    aten.rsub.Tensor: lambda a: ("sub", a["other"], _scaled(a["self"], a.number("alpha"))),
    aten.mul.Tensor: lambda a: ("mul", a["self"], a["other"]),
    aten.div.Tensor: _divide,
    aten.div.Tensor_mode: _divide,
    aten.floor_divide.default: lambda a: ("floor", ("div", a["self"], a["other"])),
    aten.remainder.Scalar: _remainder,
    aten.remainder.Tensor: _remainder,
    aten.fmod.Scalar: _fmod,
    aten.fmod.Tensor: _fmod,
    aten.maximum.default: lambda a: ("max", a["self"], a["other"]),
    aten.minimum.default: lambda a: ("min", a["self"], a["other"]),
    aten.fmax.default: lambda a: ("max", a["self"], a["other"]),
    aten.fmin.default: lambda a: ("min", a["self"], a["other"]),
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.Tensor: lambda a: ("max", a["self"], a["min"]),
    aten.clamp_max.Tensor: lambda a: ("min", a["self"], a["max"]),
    aten.pow.Tensor_Tensor: _power,
    aten.pow.Scalar: lambda a: ("exp", ("mul", a["exponent"], const(math.log(a.number("self"))))),
    aten.hypot.default: lambda a: ("sqrt", ("add", power(a["self"], 2), power(a["other"], 2))),
    aten.atan2.default: lambda a: _atan2(a["self"], a["other"]),
    aten.logaddexp.default: lambda a: _logaddexp(a["self"], a["other"]),
    aten.prelu.default: lambda a: (
        "select", ("gt", a["self"], const(0)), a["self"], ("mul", a["weight"], a["self"])
    ),
    aten.addcmul.default: lambda a: (
        "add", a["self"], _scaled(("mul", a["tensor1"], a["tensor2"]), a.number("value"))
    ),
    aten.addcdiv.default: lambda a: (
        "add", a["self"], _scaled(("div", a["tensor1"], a["tensor2"]), a.number("value"))
    ),
    aten.lerp.Scalar: lambda a: ("add", a["self"], ("mul", a["weight"], ("sub", a["end"], a["self"]))),
    aten.lerp.Tensor: lambda a: ("add", a["self"], ("mul", a["weight"], ("sub", a["end"], a["self"]))),
    ops.choose: lambda a: ("select", a["condition"], a["self"], a["other"]),
}  # fmt: skip


@rule(*ARITHMETIC)
def arithmetic(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Arithmetic between maps, constants of any shape and numbers; smaller maps are repeated."""
    operands = Operands(gm, node)
    return operands.local(ARITHMETIC[node.target](operands))


@rule(ops.compare)
def compare(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Comparisons and what is built of them (where, masked_fill, and, or, not)."""
    operands = Operands(gm, node)
    return operands.local(e.compare(operands.args["how"], operands["self"], operands["other"]))


@rule(aten.expand.default)
def expand(gm: fx.GraphModule, node: fx.Node) -> Local:
    """A smaller map, repeated."""
    return Local("pointwise", (node.args[0],))  # type: ignore[arg-type]
