"""Expressions (`skipfx.expr`) as TVM arithmetic on float32, with functions that vectorise.

`exp` is Cody-Waite range reduction with a polynomial of degree 6 (about 1 unit in the last place); `erf` is Abramowitz
and Stegun 7.1.26 (absolute error below 5e-7, rounding included). `sigmoid`, which ends every layer of
many networks, takes an `exp` of its own with fewer operations (3 units in the last place).
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T
from tvm.tirx import Let, Var

from skipfx import expr as e
from skipfx.expr import OPERATORS, Expr

LOG2E = 1.44269504088896341
LN2 = 0.69314718055994531
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# of degree 5, with the least relative error, 7.5e-8 (Remez exchange)
NEAR_ZERO = (8.29766e-3, 4.191538e-2, 1.6667575e-1, 4.9998895e-1, 9.9999969e-1, 1.00000007)
ROUND = 12582912.0  # 1.5 x 2^23: adding it leaves the nearest integer in the low bits
SIGMOID_LIMIT = 86.0
ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def f32(value: float) -> Any:
    """A float32 constant."""
    return T.float32(value)


def let(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body` of a value that is computed once, however often it occurs."""
    name = Var("t", "float32")
    return Let(name, value, body(name))


def exp(x: Any) -> Any:
    """e^x, clamped to the finite range."""
    return let(
        T.max(T.min(x, f32(88.37)), f32(-87.33)),
        lambda x: let(
            T.floor(x * f32(LOG2E) + f32(0.5)),
            lambda whole: let(x - whole * f32(LN2_HIGH) - whole * f32(LN2_LOW), lambda r: _scaled(r, whole)),
        ),
    )


def _scaled(r: Any, whole: Any) -> Any:
    """e^r 2^whole, for |r| <= ln(2) / 2."""
    poly = f32(EXP[0])
    for coefficient in EXP[1:]:
        poly = poly * r + f32(coefficient)
    power = T.reinterpret("float32", (T.Cast("int32", whole) + T.int32(127)) << T.int32(23))
    return (poly * r * r + r + f32(1)) * power


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return let(
        T.max(T.min(x, f32(SIGMOID_LIMIT)), f32(-SIGMOID_LIMIT)),
        lambda x: let(
            x * f32(-LOG2E) + f32(ROUND),
            lambda rounded: let(
                x * f32(-1) - (rounded - f32(ROUND)) * f32(LN2),
                lambda r: f32(1) / (f32(1) + _times_power(_near_zero(r), rounded)),
            ),
        ),
    )


def _times_power(x: Any, rounded: Any) -> Any:
    """Multiplies x by 2^n, with n in the low bits of `rounded`."""
    bits = T.reinterpret("int32", x) + (T.reinterpret("int32", rounded) << T.int32(23))
    return T.reinterpret("float32", bits)


def _near_zero(r: Any) -> Any:
    """e^r for |r| <= ln(2) / 2."""
    poly = f32(NEAR_ZERO[0])
    for coefficient in NEAR_ZERO[1:]:
        poly = poly * r + f32(coefficient)
    return poly


def erf(x: Any) -> Any:
    """The error function."""
    return let(
        x,
        lambda x: let(
            f32(1) / (f32(1) + f32(0.3275911) * T.abs(x)),
            lambda t: let(_tail(t, x), lambda tail: T.Select(x < f32(0), tail - f32(1), f32(1) - tail)),
        ),
    )


def _tail(t: Any, x: Any) -> Any:
    """1 - erf(|x|), with t = 1 / (1 + p |x|)."""
    poly = f32(ERF[0])
    for coefficient in ERF[1:]:
        poly = poly * t + f32(coefficient)
    return poly * t * exp(f32(0) - x * x)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": T.max,
    "min": T.min,
    "gt": lambda a, b: T.Select(a > b, f32(1), f32(0)),
    "select": lambda c, a, b: T.Select(c > f32(0), a, b),
    "abs": T.abs,
    "sqrt": T.sqrt,
    "exp": exp,
    "log": T.log,
    "erf": erf,
    "floor": T.floor,
    "round": T.nearbyint,
    "sin": T.sin,
    "cos": T.cos,
    "atan": T.atan,
    "pow": T.pow,
}


def is_sigmoid(expr: Expr) -> bool:
    """Whether the expression is `skipfx.expr.sigmoid` of something."""
    if expr[0] != "div" or expr[2][0] != "add" or expr[2][2][0] != "exp" or expr[2][2][1][0] != "sub":
        return False
    return expr == e.sigmoid(expr[2][2][1][2])


def evaluate(expr: Expr, leaf: Callable[[Expr], Any]) -> Any:
    """The expression as TVM arithmetic; `leaf` gives the value of an input or a parameter."""
    if expr[0] == "const":
        return f32(expr[1])
    if is_sigmoid(expr):
        return sigmoid(evaluate(expr[2][2][1][2], leaf))
    if expr[0] not in OPERATORS:
        return leaf(expr)
    return OPERATIONS[expr[0]](*(evaluate(operand, leaf) for operand in expr[1:]))
