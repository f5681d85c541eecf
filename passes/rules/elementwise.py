"""Pointwise operators: activations and arithmetic with maps, per-channel parameters and numbers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from skipfx import expr as e
from skipfx import graph as g
from skipfx.expr import Expr, const
from skipfx.passes.rules.common import Local, Refuse, rule

aten = torch.ops.aten
X: Expr = ("input", 0)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., 2017


def _gelu(x: Expr, approximate: str) -> Expr:
    if approximate == "tanh":
        cubic = ("add", x, ("mul", const(0.044715), ("mul", x, ("mul", x, x))))
        return ("mul", ("mul", const(0.5), x), ("add", const(1), e.tanh(("mul", const(math.sqrt(2 / math.pi)), cubic))))
    return ("mul", ("mul", const(0.5), x), ("add", const(1), ("erf", ("mul", x, const(math.sqrt(0.5))))))


def _hardsigmoid(x: Expr) -> Expr:
    return ("div", e.clamp(("add", x, const(3)), 0, 6), const(6))


def _leaky(x: Expr, slope: float) -> Expr:
    return ("select", ("gt", x, const(0)), x, ("mul", const(slope), x))


def _elu(x: Expr, alpha: float, scale: float, input_scale: float) -> Expr:
    low = ("mul", const(alpha), ("sub", ("exp", ("mul", ("min", x, const(0)), const(input_scale))), const(1)))
    return ("mul", const(scale), ("select", ("gt", x, const(0)), x, low))


def _softplus(x: Expr) -> Expr:
    tail = ("log", ("add", const(1), ("exp", ("sub", const(0), ("abs", x)))))
    return ("add", ("max", x, const(0)), tail)


def _power(x: Expr, exponent: float) -> Expr:
    powers: dict[float, Expr] = {0.5: ("sqrt", x), 1: x, 2: ("mul", x, x), 3: ("mul", x, ("mul", x, x))}
    if exponent not in powers:
        raise Refuse(f"powers other than 0.5, 1, 2 and 3 are not local here, got {exponent}")
    return powers[exponent]


UNARY: dict[Any, Callable[[dict[str, Any]], Expr]] = {
    aten.relu.default: lambda a: ("max", X, const(0)),
    aten.relu6.default: lambda a: e.clamp(X, 0, 6),
    aten.silu.default: lambda a: ("mul", X, e.sigmoid(X)),
    aten.sigmoid.default: lambda a: e.sigmoid(X),
    aten.tanh.default: lambda a: e.tanh(X),
    aten.mish.default: lambda a: ("mul", X, e.tanh(_softplus(X))),
    aten.gelu.default: lambda a: _gelu(X, a["approximate"]),
    aten.hardtanh.default: lambda a: e.clamp(X, a["min_val"], a["max_val"]),
    aten.hardsigmoid.default: lambda a: _hardsigmoid(X),
    aten.hardswish.default: lambda a: ("mul", X, _hardsigmoid(X)),
    aten.leaky_relu.default: lambda a: _leaky(X, a["negative_slope"]),
    aten.elu.default: lambda a: _elu(X, a["alpha"], a["scale"], a["input_scale"]),
    aten.selu.default: lambda a: _elu(X, SELU_ALPHA, SELU_SCALE, 1),
    aten.celu.default: lambda a: _elu(X, a["alpha"], 1, 1 / a["alpha"]),
    aten.softplus.default: lambda a: ("div", _softplus(("mul", X, const(a["beta"]))), const(a["beta"])),
    aten.pow.Tensor_Scalar: lambda a: _power(X, a["exponent"]),
    aten.square.default: lambda a: ("mul", X, X),
    aten.reciprocal.default: lambda a: ("div", const(1), X),
    aten.log.default: lambda a: ("log", X),
    aten.exp.default: lambda a: ("exp", X),
    aten.neg.default: lambda a: ("sub", const(0), X),
    aten.abs.default: lambda a: ("abs", X),
    aten.sqrt.default: lambda a: ("sqrt", X),
    aten.clamp_min.default: lambda a: ("max", X, const(a["min"])),
    aten.clamp_max.default: lambda a: ("min", X, const(a["max"])),
    aten.clamp.default: lambda a: e.clamp(
        X, -math.inf if a["min"] is None else a["min"], math.inf if a["max"] is None else a["max"]
    ),
}

BINARY = {
    aten.add.Tensor: "add",
    aten.sub.Tensor: "sub",
    aten.rsub.Scalar: "sub",
    aten.rsub.Tensor: "sub",
    aten.mul.Tensor: "mul",
    aten.div.Tensor: "div",
    aten.maximum.default: "max",
    aten.minimum.default: "min",
}


@rule(*UNARY)
def unary(gm: fx.GraphModule, node: fx.Node) -> Local:
    """f(x) with numbers as options."""
    return Local("pointwise", (node.args[0],), expr=UNARY[node.target](g.arguments(node)))  # type: ignore[arg-type]


@rule(*BINARY)
def binary(gm: fx.GraphModule, node: fx.Node) -> Local:
    """`a op b`; either may be a map, a per-channel parameter or a number."""
    args = g.arguments(node)
    found = _Operands(gm, node)
    reverse = node.target in (aten.rsub.Scalar, aten.rsub.Tensor)
    left, right = (found.leaf(args[name]) for name in (("other", "self") if reverse else ("self", "other")))
    if args.get("alpha", 1) != 1:
        right = ("mul", const(args["alpha"]), right)
    expr = (BINARY[node.target], left, right)  # type: ignore[index]
    return Local("pointwise", tuple(found.maps), expr=expr, channels=tuple(found.parameters))


@rule(aten.prelu.default)
def prelu(gm: fx.GraphModule, node: fx.Node) -> Local:
    """`x > 0 ? x : slope x`, with a slope per channel."""
    found = _Operands(gm, node)
    x, slope = found.leaf(node.args[0]), found.leaf(node.args[1])
    expr: Expr = ("select", ("gt", x, const(0)), x, ("mul", slope, x))
    return Local("pointwise", tuple(found.maps), expr=expr, channels=tuple(found.parameters))


class _Operands:
    """Sorts the operands of a call into maps, per-channel parameters and numbers."""

    def __init__(self, gm: fx.GraphModule, node: fx.Node) -> None:
        self.gm, self.node = gm, node
        self.maps: list[fx.Node] = []
        self.parameters: list[fx.Node] = []

    def leaf(self, arg: Any) -> Expr:
        """The leaf that stands for one operand."""
        if isinstance(arg, int | float):
            return const(arg)
        tensor = g.parameter(self.gm, arg)
        if tensor is None:
            return self._map(arg)
        if tensor.numel() == 1:
            return const(float(tensor.detach()))
        prelu_slope = self.node.target is aten.prelu.default and tensor.dim() == 1
        if not prelu_slope and (tensor.dim() < 3 or tensor.numel() != tensor.shape[-3]):
            raise Refuse("arithmetic with a constant that varies over the picture")
        self.parameters.append(arg)
        return ("channel", len(self.parameters) - 1)

    def _map(self, arg: fx.Node) -> Expr:
        if not g.is_map(arg):
            raise Refuse("arithmetic with a value that is no float map [1, C, H, W]")
        shape, full = g.value(arg).shape, g.value(self.node).shape
        if shape[2:] != full[2:] and tuple(shape[2:]) != (1, 1):
            raise Refuse("arithmetic that repeats a line over the picture")
        if arg not in self.maps:
            self.maps.append(arg)
        return ("input", self.maps.index(arg))
