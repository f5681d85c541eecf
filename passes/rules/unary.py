"""Activations and functions of one map, position by position."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from skipfx import expr as e
from skipfx import graph as g
from skipfx.expr import Expr, const
from skipfx.passes.rules.common import Local, rule

aten = torch.ops.aten
X: Expr = ("input", 0)
ZERO, ONE = const(0), const(1)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., 2017


def _gelu(x: Expr, approximate: str) -> Expr:
    if approximate == "tanh":
        cubic = ("add", x, ("mul", const(0.044715), ("mul", x, ("mul", x, x))))
        return ("mul", ("mul", const(0.5), x), ("add", ONE, e.tanh(("mul", const(math.sqrt(2 / math.pi)), cubic))))
    return ("mul", ("mul", const(0.5), x), ("add", ONE, ("erf", ("mul", x, const(math.sqrt(0.5))))))


def _hardsigmoid(x: Expr) -> Expr:
    return ("div", e.clamp(("add", x, const(3)), 0, 6), const(6))


def _leaky(x: Expr, slope: float) -> Expr:
    return ("select", ("gt", x, ZERO), x, ("mul", const(slope), x))


def _elu(x: Expr, alpha: float, scale: float, input_scale: float) -> Expr:
    low = ("mul", const(alpha), ("sub", ("exp", ("mul", ("min", x, ZERO), const(input_scale))), ONE))
    return ("mul", const(scale), ("select", ("gt", x, ZERO), x, low))


def _softplus(x: Expr) -> Expr:
    tail = ("log", ("add", ONE, ("exp", ("sub", ZERO, ("abs", x)))))
    return ("add", ("max", x, ZERO), tail)


def _softplus_from(x: Expr, beta: float, threshold: float) -> Expr:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold."""
    scaled: Expr = x if beta == 1 else ("mul", x, const(beta))
    return ("select", ("gt", scaled, const(threshold)), x, ("div", _softplus(scaled), const(beta)))


def log1p(x: Expr) -> Expr:
    """log(1 + x), a short series where x is small."""
    return _near_zero(x, (1, -1 / 2, 1 / 3, -1 / 4), ("log", ("add", ONE, x)))


def _expm1(x: Expr) -> Expr:
    """exp(x) - 1, a short series where x is small."""
    return _near_zero(x, (1, 1 / 2, 1 / 6, 1 / 24), ("sub", ("exp", x), ONE))


def _sinh(x: Expr) -> Expr:
    return _near_zero(x, (1, 0, 1 / 6, 0), _half_sum(x, "sub"))


def _near_zero(x: Expr, series: tuple[float, ...], elsewhere: Expr) -> Expr:
    """X (s0 + s1 x + ...) where |x| < 0.02, where rounding would eat the difference of two large numbers."""
    total: Expr = const(series[-1])
    for coefficient in reversed(series[:-1]):
        total = ("add", ("mul", total, x), const(coefficient))
    return ("select", ("gt", const(0.02), ("abs", x)), ("mul", x, total), elsewhere)


def power(x: Expr, exponent: float) -> Expr:
    """X to a fixed power."""
    powers: dict[float, Expr] = {
        0: ONE,
        0.5: ("sqrt", x),
        1: x,
        2: ("mul", x, x),
        3: ("mul", x, ("mul", x, x)),
        4: ("mul", ("mul", x, x), ("mul", x, x)),
        -0.5: ("div", ONE, ("sqrt", x)),
        -1: ("div", ONE, x),
        -2: ("div", ONE, ("mul", x, x)),
    }
    return powers.get(exponent, ("pow", x, const(exponent)))


def trunc(x: Expr) -> Expr:
    """X without its fraction."""
    return ("select", ("gt", x, ZERO), ("floor", x), ("sub", ZERO, ("floor", ("sub", ZERO, x))))


def _half_sum(x: Expr, sign: str) -> Expr:
    return ("mul", const(0.5), (sign, ("exp", x), ("exp", ("sub", ZERO, x))))


def _asin(x: Expr) -> Expr:
    return ("atan", ("div", x, ("sqrt", ("sub", ONE, ("mul", x, x)))))


def _asinh(x: Expr) -> Expr:
    size: Expr = ("abs", x)
    root: Expr = ("sqrt", ("add", ONE, ("mul", x, x)))
    found = log1p(("add", size, ("div", ("mul", x, x), ("add", ONE, root))))
    return ("mul", e.sign(x), found)


def _clamp(x: Expr, low: float | None, high: float | None) -> Expr:
    return e.clamp(x, -math.inf if low is None else low, math.inf if high is None else high)


UNARY: dict[Any, Callable[[dict[str, Any]], Expr]] = {
    aten.relu.default: lambda a: ("max", X, ZERO),
    aten.relu6.default: lambda a: e.clamp(X, 0, 6),
    aten.silu.default: lambda a: ("mul", X, e.sigmoid(X)),
    aten.sigmoid.default: lambda a: e.sigmoid(X),
    aten.log_sigmoid.default: lambda a: ("sub", ZERO, _softplus(("sub", ZERO, X))),
    aten.tanh.default: lambda a: e.tanh(X),
    aten.mish.default: lambda a: ("mul", X, e.tanh(_softplus(X))),
    aten.gelu.default: lambda a: _gelu(X, a["approximate"]),
    aten.hardtanh.default: lambda a: e.clamp(X, a["min_val"], a["max_val"]),
    aten.hardsigmoid.default: lambda a: _hardsigmoid(X),
    aten.hardswish.default: lambda a: ("mul", X, _hardsigmoid(X)),
    aten.leaky_relu.default: lambda a: _leaky(X, a["negative_slope"]),
    aten.rrelu.default: lambda a: _leaky(X, (a["lower"] + a["upper"]) / 2),
    aten.elu.default: lambda a: _elu(X, a["alpha"], a["scale"], a["input_scale"]),
    aten.selu.default: lambda a: _elu(X, SELU_ALPHA, SELU_SCALE, 1),
    aten.celu.default: lambda a: _elu(X, a["alpha"], 1, 1 / a["alpha"]),
    aten.softplus.default: lambda a: _softplus_from(X, a["beta"], a["threshold"]),
    aten.hardshrink.default: lambda a: ("select", ("gt", ("abs", X), const(a["lambd"])), X, ZERO),
    aten.softshrink.default: lambda a: ("sub", X, e.clamp(X, -a["lambd"], a["lambd"])),
    aten.threshold.default: lambda a: ("select", ("gt", X, const(a["threshold"])), X, const(a["value"])),
    aten.clamp_min.default: lambda a: ("max", X, const(a["min"])),
    aten.clamp_max.default: lambda a: ("min", X, const(a["max"])),
    aten.clamp.default: lambda a: _clamp(X, a["min"], a["max"]),
    aten.pow.Tensor_Scalar: lambda a: power(X, a["exponent"]),
    aten.square.default: lambda a: ("mul", X, X),
    aten.sqrt.default: lambda a: ("sqrt", X),
    aten.rsqrt.default: lambda a: ("div", ONE, ("sqrt", X)),
    aten.reciprocal.default: lambda a: ("div", ONE, X),
    aten.exp.default: lambda a: ("exp", X),
    aten.exp2.default: lambda a: ("exp", ("mul", X, const(math.log(2)))),
    aten.expm1.default: lambda a: _expm1(X),
    aten.log.default: lambda a: ("log", X),
    aten.log2.default: lambda a: ("mul", ("log", X), const(1 / math.log(2))),
    aten.log10.default: lambda a: ("mul", ("log", X), const(1 / math.log(10))),
    aten.log1p.default: lambda a: log1p(X),
    aten.erf.default: lambda a: ("erf", X),
    aten.neg.default: lambda a: ("sub", ZERO, X),
    aten.abs.default: lambda a: ("abs", X),
    aten.sign.default: lambda a: e.sign(X),
    aten.sgn.default: lambda a: e.sign(X),
    aten.floor.default: lambda a: ("floor", X),
    aten.ceil.default: lambda a: ("sub", ZERO, ("floor", ("sub", ZERO, X))),
    aten.trunc.default: lambda a: trunc(X),
    aten.round.default: lambda a: ("round", X),
    aten.frac.default: lambda a: ("sub", X, trunc(X)),
    aten.deg2rad.default: lambda a: ("mul", X, const(math.pi / 180)),
    aten.rad2deg.default: lambda a: ("mul", X, const(180 / math.pi)),
    aten.sin.default: lambda a: ("sin", X),
    aten.cos.default: lambda a: ("cos", X),
    aten.tan.default: lambda a: ("div", ("sin", X), ("cos", X)),
    aten.asin.default: lambda a: _asin(X),
    aten.acos.default: lambda a: ("sub", const(math.pi / 2), _asin(X)),
    aten.atan.default: lambda a: ("atan", X),
    aten.sinh.default: lambda a: _sinh(X),
    aten.cosh.default: lambda a: _half_sum(X, "add"),
    aten.asinh.default: lambda a: _asinh(X),
    aten.acosh.default: lambda a: ("log", ("add", X, ("sqrt", ("sub", ("mul", X, X), ONE)))),
    aten.atanh.default: lambda a: ("mul", const(0.5), log1p(("div", ("mul", const(2), X), ("sub", ONE, X)))),
    aten.erfc.default: lambda a: ("sub", ONE, ("erf", X)),
}


@rule(*UNARY)
def unary(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Activations and mathematical functions of one map, with numbers as options."""
    return Local("pointwise", (node.args[0],), expr=UNARY[node.target](g.arguments(node)))  # type: ignore[arg-type]
