"""Removes operators that do nothing in inference: dropout, copies, casts to the same type, no-op shapes.

Copies are what makes a tensor fit for `view`, so views become reshapes, which take any layout.
"""

from dataclasses import dataclass

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import GONE_WHEN_CANONICAL, Stage

aten = torch.ops.aten

MAYBE_IDENTITY = {
    aten._to_copy.default,
    aten.to.dtype,
    aten.reshape.default,
    aten.expand.default,
    aten.slice.Tensor,
}
VIEWS = {aten.view.default, aten._unsafe_view.default}
PADS = {aten.constant_pad_nd.default, aten.pad.default}


@dataclass(frozen=True)
class RemoveIdentity(Pass):
    """Replaces a node by its input where their values are equal by construction."""

    name = "remove_identity"
    stage = Stage.CAPTURED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.target in VIEWS:
                node.target = aten.reshape.default
                modified = True
            if _is_identity(node):
                node.replace_all_uses_with(node.args[0])
                gm.graph.erase_node(node)
                modified = True
        return modified


def _is_identity(node: fx.Node) -> bool:
    if node.target in GONE_WHEN_CANONICAL:
        return True
    if node.target in PADS:
        return not any(g.arguments(node)["pad"])
    if node.target not in MAYBE_IDENTITY:
        return False
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = g.value(source), g.value(node)
    return before.shape == after.shape and before.dtype == after.dtype
