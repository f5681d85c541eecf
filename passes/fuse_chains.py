"""Decides which values are materialised: a pointwise operator swallows what it alone consumes.

A group is one core (a convolution, a pool or a resize) or none, followed by pointwise operators; only the group's last
value is written, held and seen by others. Rules, for a producer m with the single consumer n:

1. n is pointwise, and m is neither a view nor an output of the model;
2. m has the shape of n, so that positions and channels correspond;
3. together they hold at most one core, and stay within what a kernel takes: MAX_OPERANDS other maps, MAX_PARAMETERS
   per-channel parameters, MAX_OPERATORS of arithmetic (a value that is used twice counts twice).
"""

from dataclasses import dataclass

from torch import fx

from skipfx import graph as g
from skipfx.expr import size
from skipfx.passes.base import Pass
from skipfx.passes.rules import Local, local
from skipfx.passes.rules.common import VIEWS
from skipfx.spec import Stage

MAX_OPERANDS, MAX_PARAMETERS, MAX_OPERATORS = 4, 4, 64


def is_inside(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value is computed with the one that reads it, and is not materialised."""
    found = g.record(node)
    return found.role == "local" and not found.held and local(gm, node).family not in VIEWS


@dataclass
class _Group:
    cores: int
    operands: set[fx.Node]
    parameters: int
    operators: int


@dataclass(frozen=True)
class FuseChains(Pass):
    """Marks the values that are held."""

    name = "fuse_chains"
    stage = Stage.CLASSIFIED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        groups: dict[fx.Node, _Group] = {}
        outputs = set(g.outputs(gm.graph))
        for node in gm.graph.nodes:
            if g.record(node).role != "local":
                continue
            found = local(gm, node)
            if found.family in VIEWS:
                continue
            g.record(node).held = True
            core = found.family != "pointwise"
            operators = 0 if core else size(found.expr, [0] * len(found.inputs))
            operands = set() if core else set(found.inputs)
            groups[node] = _Group(int(core), operands, len(found.channels), operators)
            if not core:
                _absorb(node, found, groups, outputs)
        return True


def _absorb(node: fx.Node, found: Local, groups: dict[fx.Node, _Group], outputs: set[fx.Node]) -> None:
    """Takes the producers of a pointwise node into its group, the latest first."""
    mine, weights = groups[node], [0] * len(found.inputs)
    for index, source in reversed(list(enumerate(found.inputs))):
        theirs = groups.get(source)
        if theirs is None or len(source.users) != 1 or source in outputs:
            continue
        tried = [*weights[:index], theirs.operators, *weights[index + 1 :]]
        both = _Group(
            mine.cores + theirs.cores,
            (mine.operands - {source}) | theirs.operands,
            mine.parameters + theirs.parameters,
            size(found.expr, tried),
        )
        if g.value(source).shape == g.value(node).shape and _fits(both):
            mine = groups[node] = both
            weights = tried
            g.record(source).held = False


def _fits(group: _Group) -> bool:
    return (
        group.cores <= 1
        and len(group.operands) <= MAX_OPERANDS
        and group.parameters <= MAX_PARAMETERS
        and group.operators <= MAX_OPERATORS
    )
