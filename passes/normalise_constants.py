"""Gives constants that vary over the picture one form: float maps [1, C, H, W], which are operands like others.

Position embeddings, coordinates, grids of anchors: they never change, so a position that reads one depends on its other
operands alone. An extent of 1 stays 1 and serves all channels, rows or columns.
"""

from dataclasses import dataclass

from torch import Tensor, fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.base import Pass
from skipfx.passes.rules.arithmetic import ARITHMETIC, varies
from skipfx.spec import Stage


@dataclass(frozen=True)
class NormaliseConstants(Pass):
    """Constants in arithmetic between maps become maps."""

    name = "normalise_constants"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for source in gm.graph.find_nodes(op="get_attr"):
            tensor = g.parameter(gm, source)
            if tensor is None or g.is_map(source):
                continue
            readers = [user for user in source.users if _is_arithmetic(user) and varies(user, tensor)]
            if readers:
                constant = _as_map(gm, source, tensor)
                for reader in readers:
                    reader.replace_input_with(source, constant)
                modified = True
        return modified


def _is_arithmetic(node: fx.Node) -> bool:
    return g.is_map(node) and (node.target in ARITHMETIC or node.target is ops.compare)


def _as_map(gm: fx.GraphModule, source: fx.Node, tensor: Tensor) -> fx.Node:
    shape = (1,) * (4 - tensor.dim()) + tuple(tensor.shape)
    with gm.graph.inserting_after(source):
        return g.add_parameter(gm, f"{g.record(source).layer}_{source.name}_map", tensor.float().reshape(shape), source)
