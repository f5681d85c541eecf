"""What the rules say of operators, against the operators themselves."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

from skipfx import graph as g
from skipfx.expr import OPERATORS, Expr
from skipfx.passes.rules import Local, local
from tests.passes.applied import Function, applied

Floats = NDArray[np.float64]
KERNEL = torch.rand(3, 1, 3, 2)


@cache
def canonical(table: str) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """The canonical graph of a table of functions, and the node that each ends in."""
    return applied(TABLES[table])


def rule_of(table: str, name: str) -> tuple[fx.GraphModule, fx.Node, Local]:
    """What the rule of a function's last call says."""
    gm, nodes = canonical(table)
    return gm, nodes[name], local(gm, nodes[name])


def evaluate(expr: Expr, inputs: list[Floats], channels: list[Floats]) -> Floats:
    """An expression in NumPy float64."""
    if expr[0] not in OPERATORS:
        kind, key = expr
        return np.asarray(key, np.float64) if kind == "const" else {"input": inputs, "channel": channels}[kind][key]
    a, *rest = (evaluate(operand, inputs, channels) for operand in expr[1:])
    if expr[0] == "select":
        return np.where(a > 0, *rest)
    if expr[0] == "erf":
        return torch.erf(torch.from_numpy(a)).numpy()
    if expr[0] == "gt":
        return (a > rest[0]).astype(np.float64)
    names = {"sub": "subtract", "mul": "multiply", "div": "divide", "max": "maximum", "min": "minimum"}
    name: str = expr[0]
    result: Floats = getattr(np, names.get(name, name))(a, *rest)
    return result


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 2.0),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 1.3),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "softplus": F.softplus,
    "softplus beta": lambda x: F.softplus(x, beta=2),
    "square": torch.square,
    "power 0.5": lambda x: x**0.5,
    "power 3": lambda x: x**3,
    "exp": torch.exp,
    "neg": torch.neg,
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp from below": lambda x: x.clamp(min=0.1),
    "clamp from above": lambda x: x.clamp(max=0.1),
    "clamp_max": lambda x: torch.clamp_max(x, -0.2),
    "clamp_min": lambda x: torch.clamp_min(x, -0.2),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary_expressions(name: str) -> None:
    function = UNARY[name]
    _, _, found = rule_of("unary", name)
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert found.family == "pointwise"
    with np.errstate(invalid="ignore"):  # a root of a negative number is NaN on both sides
        result = evaluate(found.expr, [x.numpy()], [])
    # float64 on both sides: only the order of a few operations differs
    np.testing.assert_allclose(result, function(x).numpy(), rtol=1e-9, atol=1e-12)


BINARY: dict[str, Function] = {
    "add": lambda x, p: x + x.sin().cos(),
    "map and parameter": lambda x, p: x * p,
    "parameter first": lambda x, p: p - x,
    "map that never changes": lambda x, p: x * torch.linspace(0, 1, 7),
    "number": lambda x, p: x / 3,
    "number first": lambda x, p: 2 - x,
    "reversed with alpha": lambda x, p: torch.rsub(x, p, alpha=0.5),
    "alpha": lambda x, p: torch.sub(x, p, alpha=0.5),
    "scalar tensor": lambda x, p: x * torch.tensor(0.25),
    "itself": lambda x, p: x * x,
    "maximum": lambda x, p: torch.maximum(x, p),
    "prelu": lambda x, p: F.prelu(x, p.flatten()),
    "prelu with one slope": lambda x, p: F.prelu(x, p.flatten()[:1]),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_expressions(name: str) -> None:
    gm, node, found = rule_of("binary", name)
    values = {source: _or_random(g.parameter(gm, source), source) for source in found.inputs}
    parameters = [g.parameter(gm, source) for source in found.channels]
    args = fx.node.map_arg(node.args, lambda arg: values.get(arg, g.parameter(gm, arg)))
    expected = node.target(*args, **node.kwargs).numpy(force=True)  # type: ignore[operator]
    channels = [p.numpy(force=True).astype(np.float64).reshape(-1, 1, 1) for p in parameters if p is not None]
    result = evaluate(found.expr, [value.double().numpy() for value in values.values()], channels)
    np.testing.assert_allclose(result, expected, rtol=1e-5)  # float32 on PyTorch's side


def _or_random(constant: Tensor | None, node: fx.Node) -> Tensor:
    return torch.randn(g.value(node).shape) if constant is None else constant


RESIZES: dict[str, dict[str, Any]] = {
    "nearest": {"scale_factor": 2},
    "nearest by size": {"size": (9, 11)},
    "nearest down": {"size": (4, 3)},
    "nearest exact": {"size": (4, 3), "mode": "nearest-exact"},
    "antialiased": {"scale_factor": 2, "mode": "bicubic", "antialias": True},
    "bilinear": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear corners": {"size": (11, 9), "mode": "bilinear", "align_corners": True},
    "bicubic": {"scale_factor": 1.5, "mode": "bicubic"},
}


@pytest.mark.parametrize("name", RESIZES)
def test_resize_is_a_sum_over_its_taps(name: str) -> None:
    _, _, found = rule_of("resize", name)
    x = torch.randn(1, 3, 6, 7)
    rows, columns = (_matrix(found.attrs[axis], size) for axis, size in (("rows", 6), ("columns", 7)))
    expected = F.interpolate(x, **RESIZES[name]).numpy()
    # weights are float32, and a separable sum rounds in another order
    np.testing.assert_allclose(np.einsum("oh,bchw,pw->bcop", rows, x.numpy(), columns), expected, atol=1e-5)


def _matrix(taps: list[list[list[float]]], size: int) -> Floats:
    matrix = np.zeros((len(taps), size))
    for line, (index, weight) in enumerate(taps):
        np.add.at(matrix[line], np.array(index, int), weight)
    return matrix


WINDOWS: dict[str, tuple[Function, str, tuple[tuple[int, int], ...]]] = {
    "pool": (lambda x, p: F.max_pool2d(x, 3, 2, 1), "max_pool", ((3, 3), (2, 2), (1, 1), (1, 1))),
    "dilated": (lambda x, p: F.max_pool2d(x, (2, 3), dilation=(1, 2)), "max_pool", ((2, 3), (2, 3), (0, 0), (1, 2))),
    "mean": (lambda x, p: F.avg_pool2d(x, 2), "avg_pool", ((2, 2), (2, 2), (0, 0), (1, 1))),
    "conv": (lambda x, p: F.conv2d(x, KERNEL, stride=2, padding=3, groups=3), "conv", ((3, 2), (2, 2), (3, 3), (1, 1))),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    _, family, window = WINDOWS[name]
    _, _, found = rule_of("window", name)
    assert found.family == family
    assert (found.window.kernel, found.window.stride, found.window.padding, found.window.dilation) == window


def test_convolution_macs_are_per_position() -> None:
    _, _, found = rule_of("window", "conv")
    assert found.macs == 3 * 1 * 3 * 2 and found.attrs["groups"] == 3


@pytest.mark.parametrize("name, start", [("from 1", 1), ("last two", 1), ("to 2", 0)])
def test_channel_slices_know_their_first_channel(name: str, start: int) -> None:
    _, _, found = rule_of("slice", name)
    assert found.family == "slice" and found.attrs["start"] == start


TABLES: dict[str, dict[str, Function]] = {
    "unary": {name: (lambda x, p, f=function: f(x)) for name, function in UNARY.items()},  # type: ignore[misc]
    "binary": BINARY,
    "resize": {n: (lambda x, p, o=options: F.interpolate(x, **o)) for n, options in RESIZES.items()},  # type: ignore[misc]
    "window": {name: entry[0] for name, entry in WINDOWS.items()},
    "slice": {"from 1": lambda x, p: x[:, 1:], "last two": lambda x, p: x[:, -2:], "to 2": lambda x, p: x[:, :2]},
}
