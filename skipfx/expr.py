"""Pointwise arithmetic as data: what a rule says of an operator, what fusion composes and what a kernel computes.

An expression is a nested tuple, so it compares, hashes and goes through JSON:

    ("input", i)      the i-th feature map, at the same position
    ("channel", i)    the i-th per-channel parameter
    ("const", v)      a number
    (op, *operands)   an operator of `OPERATORS`
"""

from collections.abc import Callable, Sequence
from typing import Any

Expr = tuple[Any, ...]

# operator -> number of operands
OPERATORS = {
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,
    "max": 2,
    "min": 2,
    "gt": 2,  # 1.0 where true, else 0.0
    "select": 3,  # condition > 0 ? a : b
    "abs": 1,
    "sqrt": 1,
    "exp": 1,
    "log": 1,
    "erf": 1,
    "floor": 1,
    "round": 1,  # to the nearest, halves to even
    "sin": 1,
    "cos": 1,
    "atan": 1,
    "pow": 2,
}


def const(value: float) -> Expr:
    """A number."""
    return ("const", float(value))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    return ("div", const(1), ("add", const(1), ("exp", ("sub", const(0), x))))


def tanh(x: Expr) -> Expr:
    """2 sigmoid(2 x) - 1."""
    return ("sub", ("mul", const(2), sigmoid(("mul", const(2), x))), const(1))


def clamp(x: Expr, low: float, high: float) -> Expr:
    """Limits x to [low, high]."""
    return ("min", ("max", x, const(low)), const(high))


def sign(x: Expr) -> Expr:
    """-1, 0 or 1."""
    return ("sub", ("gt", x, const(0)), ("gt", const(0), x))


def compare(how: str, left: Expr, right: Expr) -> Expr:
    """1.0 where the comparison holds, else 0.0; `how` is one of gt, lt, ge, le, eq, ne."""
    above: Expr = ("gt", left, right)
    below: Expr = ("gt", right, left)
    differ: Expr = ("max", above, below)
    found = {"gt": above, "lt": below, "ge": opposite(below), "le": opposite(above), "ne": differ}
    return opposite(differ) if how == "eq" else found[how]


def opposite(truth: Expr) -> Expr:
    """1 where it is 0, and the other way round."""
    return ("sub", const(1), truth)


def substitute(expr: Expr, leaf: Callable[[Expr], Expr]) -> Expr:
    """The expression with every leaf replaced by `leaf(it)`."""
    if expr[0] in OPERATORS:
        return (expr[0], *(substitute(operand, leaf) for operand in expr[1:]))
    return leaf(expr)


def size(expr: Expr, inputs: Sequence[int]) -> int:
    """How many operators the expression has, when input i stands for one with `inputs[i]` of them."""
    if expr[0] in OPERATORS:
        return 1 + sum(size(operand, inputs) for operand in expr[1:])
    return inputs[expr[1]] if expr[0] == "input" else 0


def leaves(expr: Expr, kind: str) -> set[int]:
    """The indices of the leaves of one kind, "input" or "channel"."""
    if expr[0] in OPERATORS:
        return set().union(*(leaves(operand, kind) for operand in expr[1:]))
    return {expr[1]} if expr[0] == kind else set()


def from_json(data: Any) -> Expr:
    """Rebuilds an expression whose tuples became lists."""
    return tuple(from_json(part) if isinstance(part, list) else part for part in data)
