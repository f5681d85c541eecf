"""Sorts every operator into local ones, which become sparse, and dense islands, each with its reason."""

from dataclasses import dataclass

from torch import fx

from skipfx import graph as g
from skipfx.errors import NothingToTransform
from skipfx.passes.base import Pass
from skipfx.passes.rules import Refuse, local
from skipfx.spec import Stage


@dataclass(frozen=True)
class ClassifyOperators(Pass):
    """Gives every call its role.

    Attributes:
        exclude: patterns of module names that stay dense.
    """

    exclude: tuple[str, ...] = ()

    name = "classify_operators"
    stage = Stage.CLASSIFIED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        macs = 0
        for node in gm.graph.nodes:
            if node.op == "get_attr":
                g.record(node).role = "parameter"
            if node.op == "call_function":
                macs += self._classify(gm, node)
        if macs == 0:
            raise NothingToTransform(_nothing(gm))
        return True

    def _classify(self, gm: fx.GraphModule, node: fx.Node) -> int:
        found = g.record(node)
        pattern = next((p for p in self.exclude if g.matches(found.layer, p)), None)
        try:
            if pattern is not None:
                raise Refuse(f"excluded by {pattern!r}")
            macs = local(gm, node).macs
        except Refuse as reason:
            found.role, found.reason = "island", str(reason)
            return 0
        found.role = "local"
        return macs


def _nothing(gm: fx.GraphModule) -> str:
    reasons = sorted({g.record(node).reason for node in gm.graph.nodes if g.record(node).role == "island"})
    return "no convolution of the model is local in space, so there is nothing to skip:\n  " + "\n  ".join(reasons)
