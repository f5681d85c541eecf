"""Writes docs/operators.md from the registry: every operator, whether it is sparse, and why not.

python -m skipfx.passes.operator_page > docs/operators.md
"""

import ast
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import torch

from skipfx import ops
from skipfx.passes import (
    collect_moves,
    normalise_booleans,
    normalise_pads,
    normalise_pools,
    normalise_reductions,
    normalise_slices,
    normalise_transposed,
    remove_identity,
    rules,
    sink_operators,
)
from skipfx.passes.rules.whole import WHOLE, name_of
from skipfx.spec import GONE_WHEN_CANONICAL

FAMILIES = (rules.conv, rules.unary, rules.arithmetic, rules.pool, rules.resize, rules.reduce, rules.move, rules.shape)
aten = torch.ops.aten
# the pass that rewrites them -> operators that become others before the rules see them
REWRITTEN: dict[ModuleType, Iterable[Any]] = {
    normalise_transposed: normalise_transposed.TRANSPOSED,
    normalise_pads: remove_identity.PADS,
    normalise_pools: normalise_pools.MEANS | normalise_pools.MAXIMA | normalise_pools.ADAPTIVE,
    normalise_reductions: {
        *normalise_reductions.EXTREMES, *normalise_reductions.SPREADS, aten.argmax.default,
        aten.linalg_vector_norm.default,
    },
    normalise_booleans: set().union(
        normalise_booleans.COMPARE, normalise_booleans.WHERE, normalise_booleans.FILL, normalise_booleans.AND,
        normalise_booleans.OR, normalise_booleans.XOR, normalise_booleans.NOT,
    ),
    normalise_slices: normalise_slices.SPLITS | {aten.glu.default},
    collect_moves: collect_moves.MOVES | collect_moves.INDEXING | {aten.stack.default},
    sink_operators: sink_operators.LINEAR | sink_operators.SOFTMAX | {aten.layer_norm.default},
}  # fmt: skip
HEAD = """# Operators

This page is made from the compiler's own tables (`python -m skipfx.passes.operator_page`); a test keeps it current.
Names are those of ATen, PyTorch's own names for its operators, as `torch.export` shows them. `skipfx inspect` says of
your model which operators are sparse, which are not, and why.

A sparse operator is computed at the positions whose inputs changed. What it reads must be a float feature map
[1, C, H, W]. An operator that is not sparse runs as a dense island, as a whole, when an input of it changed; it is
never an error.
"""


def page() -> str:
    """The text of docs/operators.md."""
    parts = [HEAD, "## Sparse\n", *map(_family, FAMILIES), "## Rewritten first\n", _INTRODUCTION]
    parts += [_rewriting(module, targets) for module, targets in REWRITTEN.items()]
    parts += [
        "\n## Gone\n",
        f"Does nothing in inference, and is removed: {_names(GONE_WHEN_CANONICAL)}.\n",
        "## Dense\n",
    ]
    by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(WHOLE.items()):
        by_reason.setdefault(reason, []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {reason} |" for reason, names in by_reason.items()]
    table = "\n".join(["| operators | why |", "|---|---|", *rows])
    return "\n".join(
        [*parts, table, "", "Any other operator: skipfx does not know it as an operator on positions.", ""]
    )


_INTRODUCTION = "These become operators of the families above before the rules see them.\n"


def _family(module: ModuleType) -> str:
    """The operators of one file of rules, and the forms that it refuses."""
    by_rule: dict[Any, list[Any]] = {}
    for target, function in rules.RULES.items():
        if inspect.getmodule(function) is module:
            by_rule.setdefault(function, []).append(target)
    lines = [f"### {_first(module)}", ""]
    for function, targets in by_rule.items():
        public = [target for target in targets if target not in ops.OPS]
        operators = f": {_names(public)}" if public else ""
        lines.append(f"* {_first(function)}{operators}.")
    reasons = sorted(set(refusals(module)))
    if reasons:
        lines += ["", "Dense, with this reason, where it is", ""]
        lines += [f"* {reason}" for reason in reasons]
    return "\n".join([*lines, ""])


def _rewriting(module: ModuleType, targets: Iterable[Any]) -> str:
    return f"* {_first(module)}: {_names(targets)}."


def _names(targets: Iterable[Any]) -> str:
    return ", ".join(f"`{name}`" for name in sorted({name_of(target) for target in targets}))


def _first(documented: Any) -> str:
    """The first sentence of a docstring, without its full stop."""
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    return text.rstrip(".:")


def refusals(module: ModuleType) -> Iterator[str]:
    """The reasons that a file of rules may give, with ... for what depends on the model."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refuse":
            yield _text(node.args[0])


def _text(message: ast.expr) -> str:
    if isinstance(message, ast.JoinedStr):
        return "".join(_text(part) for part in message.values)
    return str(message.value) if isinstance(message, ast.Constant) else "..."


if __name__ == "__main__":
    print(page(), end="")
