"""The functions that kernels compute themselves, against NumPy in double precision over the whole range of float32."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm.script import tirx as T

from skipfx import expr as e
from skipfx.expr import Expr, const
from skipfx.runtime.backends.levels import X86, host_levels
from skipfx.runtime.kernels.arithmetic import evaluate
from skipfx.runtime.kernels.table import LANES

Doubles = NDArray[np.float64]
X: Expr = ("input", 0)
EXPRESSIONS: dict[str, Expr] = {
    "exp": ("exp", X),
    "erf": ("erf", X),
    "log": ("log", X),
    "sqrt": ("sqrt", X),
    "sigmoid": e.sigmoid(X),
    "tanh": e.tanh(X),
    "clamp": e.clamp(X, -1.5, 2),
    "half_open": e.clamp(X, -math.inf, 2),
    "select": ("select", ("gt", X, const(0)), const(3), X),
}
EXPONENTS = np.float32(2.0) ** np.arange(-149, 128, dtype=np.float32)
SIZES = np.concatenate([EXPONENTS * scale for scale in np.linspace(1, 1.99, 24, dtype=np.float32)])
NEAR = np.linspace(-110, 95, 100_001, dtype=np.float32)
LIMIT = np.finfo(np.float32).max
VALUES = np.concatenate([[0, -LIMIT, LIMIT], SIZES, -SIZES, NEAR]).astype(np.float32)
VALUES = np.pad(VALUES, (0, -VALUES.size % LANES))


def _function(expr: Expr) -> Any:
    def value(x: Any) -> Any:
        return evaluate(expr, lambda leaf: x)

    # fmt: off
    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def function(xh: T.handle, yh: T.handle) -> None:
        size = T.int64()
        x = T.match_buffer(xh, (size,), "float32")
        y = T.match_buffer(yh, (size,), "float32")
        for block in range(size // LANES):
            for lane in T.vectorized(LANES):
                y[block * LANES + lane] = value(x[block * LANES + lane])
    # fmt: on

    return function


@pytest.fixture(scope="module")
def run() -> Callable[[str, NDArray[np.float32]], Doubles]:
    functions = {name: _function(expr).with_attr("global_symbol", name) for name, expr in EXPRESSIONS.items()}
    level = host_levels()[-1]
    target = tvm.target.Target({"kind": "llvm"} | ({"mcpu": level} if level in X86 else {}))
    built = tvm.compile(tvm.IRModule(functions), target=target)

    def call(name: str, values: NDArray[np.float32]) -> Doubles:
        taken, given = tvm.runtime.tensor(values), tvm.runtime.tensor(np.zeros_like(values))
        built[name](taken, given)
        result: Doubles = given.numpy().astype(np.float64)
        return result

    return call


def test_exp(run: Callable[..., Doubles]) -> None:
    found, x = run("exp", VALUES), VALUES.astype(np.float64)
    inside = (x > -87.33) & (x < 88.37)
    exact = np.exp(x[inside])
    assert np.abs(found[inside] / exact - 1).max() < 2.5e-7  # two units in the last place
    assert np.all(found[x >= 88.37] > 2.3e38) and np.isfinite(found).all()
    assert np.all((found[x <= -87.33] >= 0) & (found[x <= -87.33] < 1.3e-38))
    assert np.all(np.diff(found[np.argsort(VALUES, kind="stable")]) >= -1e-7 * found.max())


def test_erf(run: Callable[..., Doubles]) -> None:
    exact = np.array([math.erf(x) for x in VALUES])
    found = run("erf", VALUES)
    assert np.abs(found - exact).max() < 5e-7
    assert np.abs(found).max() <= 1
    assert np.array_equal(run("erf", -VALUES), -found)


def test_sigmoid_and_tanh(run: Callable[..., Doubles]) -> None:
    x = VALUES.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
    assert np.abs(run("sigmoid", VALUES) - sigmoid).max() < 2e-7
    assert np.abs(run("tanh", VALUES) - np.tanh(x)).max() < 3e-7


def test_log_and_sqrt(run: Callable[..., Doubles]) -> None:
    positive = np.abs(VALUES[VALUES != 0])
    normal = positive[positive >= np.finfo(np.float32).tiny]
    normal = normal[: normal.size // LANES * LANES]
    exact = np.log(normal.astype(np.float64))
    assert np.abs(run("log", normal) - exact).max() < 1e-5
    assert np.abs(run("log", normal) - exact)[np.abs(exact) > 1e-3].max() / np.abs(exact).max() < 1e-6
    assert np.abs(run("sqrt", normal) / np.sqrt(normal.astype(np.float64)) - 1).max() < 2e-7


def test_choices_are_exact(run: Callable[..., Doubles]) -> None:
    assert np.array_equal(run("clamp", VALUES), np.clip(VALUES, -1.5, 2))
    assert np.array_equal(run("half_open", VALUES), np.minimum(VALUES, 2))
    assert np.array_equal(run("select", VALUES), np.where(VALUES > 0, 3, VALUES))
