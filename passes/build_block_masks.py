"""Makes masks block-shaped (Skip-Convolutions, section 3.3): a b x b block opens where any of its positions fires."""

from dataclasses import dataclass

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.base import Pass
from skipfx.spec import Stage

UNPOOLED = (ops.covered, ops.fires)  # one is about inputs, the other is pooled already


@dataclass(frozen=True)
class BuildBlockMasks(Pass):
    """Pools every mask once; all its consumers share the pooled mask.

    Attributes:
        block: side b of a block.
    """

    block: int = 1

    name = "build_block_masks"
    stage = Stage.MASKED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        if self.block == 1:
            return False
        held = [node for node in gm.graph.find_nodes(op="call_function", target=ops.select)]
        masks = dict.fromkeys(node.args[0] for node in held)
        covered = [mask for mask in masks if isinstance(mask, fx.Node) and mask.target not in UNPOOLED]
        for mask in covered:
            users = list(mask.users)
            with gm.graph.inserting_after(mask):
                pooled = g.insert(gm.graph, ops.block_mask, (mask, self.block), mask)
            for user in users:
                user.replace_input_with(mask, pooled)
        return bool(covered)
