"""The registry of local operators.

A rule reads one ATen call and says what it is: `Local`, when a position of its output depends on a window of positions
of its inputs; or it refuses with a reason, which the user reads in the report.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.expr import Expr
from skipfx.passes.rules.whole import why_no_input, why_no_map, why_unknown

Family = Literal["conv", "max_pool", "avg_pool", "resize", "pointwise", "concat", "slice", "border", "move", "reduce"]
Pair = tuple[int, int]
VIEWS = ("concat", "slice", "border")


@dataclass(frozen=True)
class Window:
    """The input rows and columns that an output position reads: o * stride - padding + k * dilation, k < kernel."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


POINT = Window()


@dataclass(frozen=True)
class Local:
    """A local operator.

    Attributes:
        family: what lowers it.
        inputs: the feature maps it reads; `window` is about the first, the others are read at the output's position.
        window: receptive field on the first input (not for "resize", whose attrs tell).
        macs: multiply-accumulates for one output position.
        expr: for "pointwise", its arithmetic over `inputs` and `channels`.
        channels: parameters with one value per channel, or one for all.
        attrs: what else the family's kernel needs.
    """

    family: Family
    inputs: tuple[fx.Node, ...]
    window: Window = POINT
    macs: int = 0
    expr: Expr = ("input", 0)
    channels: tuple[fx.Node, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)


class Refuse(Exception):
    """A rule's reason why a call cannot be local, in words for the user."""


Rule = Callable[[fx.GraphModule, fx.Node], Local]
RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Registers the decorated function as the rule of the given operators."""

    def register(function: Rule) -> Rule:
        for target in targets:
            assert target not in RULES, f"{target} has two rules"
            RULES[target] = function
        return function

    return register


def local(gm: fx.GraphModule, node: fx.Node) -> Local:
    """What the rules say of a call.

    Raises:
        Refuse: it is not local, or not in this form; the message says why.
    """
    found = RULES.get(node.target)
    if found is None:
        raise Refuse(why_unknown(node))
    if not g.is_map(node):
        raise Refuse(why_no_map(node))
    result = found(gm, node)
    for source in result.inputs:
        if not g.is_map(source):
            raise Refuse(why_no_input(node, source))
    return result


def pair(value: Any) -> Pair:
    """A per-axis argument, which ATen may abbreviate to one number."""
    numbers = [value, value] if isinstance(value, int) else list(value)
    return (numbers[0], numbers[-1])


def behind_border(node: fx.Node, window: Window) -> tuple[fx.Node, Window]:
    """The map that a window reads, past a border, and the window with the border as its padding."""
    if node.target is not ops.border:
        return node, window
    args: Any = node.args
    source, (left, _, top, _), _ = args
    return source, replace(window, padding=(window.padding[0] + top, window.padding[1] + left))
