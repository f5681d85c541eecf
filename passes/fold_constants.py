"""Evaluates what depends on parameters alone, such as weight normalisation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import Stage


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replaces a tensor computed from parameters by a parameter."""

    name = "fold_constants"
    stage = Stage.CAPTURED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        known: dict[fx.Node, Any] = {}
        for node in gm.graph.nodes:
            if node.op == "get_attr":
                known[node] = g.parameter(gm, node)
            elif _is_pure(node) and all(source in known for source in node.all_input_nodes):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: known[arg])
                known[node] = node.target(*args, **kwargs)
        modified = False
        for node, tensor in known.items():
            if node.op == "get_attr" or not isinstance(tensor, torch.Tensor) or known.keys() >= node.users.keys():
                continue
            with gm.graph.inserting_before(node):
                constant = g.add_parameter(gm, f"{g.record(node).layer}_{node.name}", tensor.clone(), node)
            node.replace_all_uses_with(constant)
            modified = True
        return modified


def _is_pure(node: fx.Node) -> bool:
    """Whether a call gives the same value every time it is made."""
    tags = getattr(node.target, "tags", ())
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded not in tags
