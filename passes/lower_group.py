"""One step of a plan as arithmetic: a core, or none, and the expression that fusion built around it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.expr import Expr, const
from skipfx.numbering import number
from skipfx.passes.fuse_chains import is_inside
from skipfx.passes.rules import Local, local
from skipfx.plan import Floats


class Group:
    """A materialised value as one core (or none) and an expression over it.

    Args:
        gm: the graph.
        gates: gate nodes that are computed with the value, and what they let through here; None for zeros.
    """

    def __init__(self, gm: fx.GraphModule, gates: Mapping[fx.Node, fx.Node | None] | None = None) -> None:
        self.gm, self.gates = gm, gates or {}
        self.core: Local | None = None
        self.core_node: fx.Node | None = None
        self.operands: list[fx.Node] = []
        self.channels: list[Floats] = []

    def build(self, node: fx.Node) -> Expr:
        """The expression of a value, numbered as `skipfx.plan.Compute` says."""
        expr = self._expr(node)
        shift = int(self.core is not None)
        return _renumber(expr, shift)

    def _expr(self, node: fx.Node) -> Expr:
        if node in self.gates:
            inner = self.gates[node]
            return const(0) if inner is None else self._expr(inner)
        if node.target is ops.fires:
            return self._fires(node)
        found = local(self.gm, node)
        if found.family != "pointwise":
            self.core, self.core_node = found, node
            return ("core",)
        first = len(self.channels)
        self.channels += [self._channel(parameter) for parameter in found.channels]
        inputs = [self._operand(source) for source in found.inputs]
        return _fill(found.expr, inputs, first)

    def _fires(self, mask: fx.Node) -> Expr:
        """1 where a logit is positive."""
        score, bias, _ = mask.args
        self.channels.append(self._channel(bias))
        limit: Expr = ("channel", len(self.channels) - 1)
        return ("gt", ("add", self._operand(score), limit), const(0))  # type: ignore[arg-type]

    def _channel(self, node: Any) -> Floats:
        tensor = g.parameter(self.gm, node)
        assert tensor is not None
        return tensor.detach().reshape(-1).numpy().astype(np.float32)

    def _operand(self, source: fx.Node) -> Expr:
        if is_inside(self.gm, source) or source in self.gates:
            return self._expr(source)
        return ("operand", number(self.operands, source))


def _fill(expr: Expr, inputs: list[Expr], first_channel: int) -> Expr:
    if expr[0] == "input":
        return inputs[expr[1]]
    if expr[0] == "channel":
        return ("channel", expr[1] + first_channel)
    if expr[0] == "const":
        return expr
    return (expr[0], *(_fill(part, inputs, first_channel) for part in expr[1:]))


def _renumber(expr: Expr, shift: int) -> Expr:
    if expr[0] == "core":
        return ("input", 0)
    if expr[0] == "operand":
        return ("input", expr[1] + shift)
    if expr[0] in ("channel", "const"):
        return expr
    return (expr[0], *(_renumber(part, shift) for part in expr[1:]))
