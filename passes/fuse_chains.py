"""Decides which values are materialised: a pointwise operator swallows what it alone consumes.

A group is one core (a convolution, a pool or a resize) or none, followed by pointwise operators; only the group's last
value is written, held and seen by others. Rules, for a producer m with the single consumer n:

1. n is pointwise, and m is neither a view nor an output of the model;
2. m has the shape of n, so that positions and channels correspond;
3. together they hold at most one core and read at most MAX_OPERANDS other maps.
"""

from dataclasses import dataclass

from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.passes.rules import Local, local
from skipfx.passes.rules.common import VIEWS
from skipfx.spec import Stage

MAX_OPERANDS = 4


@dataclass
class _Group:
    cores: int
    operands: set[fx.Node]


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
            groups[node] = _Group(int(core), set() if core else set(found.inputs))
            if not core:
                _absorb(node, found, groups, outputs)
        return True


def _absorb(node: fx.Node, found: Local, groups: dict[fx.Node, _Group], outputs: set[fx.Node]) -> None:
    """Takes the producers of a pointwise node into its group, the latest first."""
    mine = groups[node]
    for source in reversed(found.inputs):
        theirs = groups.get(source)
        if theirs is None or len(source.users) != 1 or source in outputs:
            continue
        operands = (mine.operands - {source}) | theirs.operands
        if (
            g.value(source).shape != g.value(node).shape
            or mine.cores + theirs.cores > 1
            or len(operands) > MAX_OPERANDS
        ):
            continue
        mine.cores, mine.operands = mine.cores + theirs.cores, operands
        g.record(source).held = False
