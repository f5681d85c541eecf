"""Gives split, chunk and gated linear units one form: a slice per part that is used."""

import operator
from dataclasses import dataclass

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import Stage

aten = torch.ops.aten
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.split.sizes}


@dataclass(frozen=True)
class NormaliseSlices(Pass):
    """getitem(split(x), i) becomes slice(x), glu(x) becomes a * sigmoid(b) of the halves of x."""

    name = "normalise_slices"
    stage = Stage.CAPTURED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.target is operator.getitem and node.args[0].target in SPLITS:
                _to_slice(gm.graph, node)
                modified = True
            elif node.target is aten.glu.default:
                _gate(gm.graph, node)
                modified = True
        return modified


def _to_slice(graph: fx.Graph, item: fx.Node) -> None:
    split, index = item.args
    assert isinstance(split, fx.Node) and isinstance(index, int)
    dim = g.arguments(split)["dim"]
    sizes = [part.shape[dim] for part in split.meta["val"]]
    index %= len(sizes)
    start = sum(sizes[:index])
    with graph.inserting_before(item):
        part = g.insert(graph, aten.slice.Tensor, (split.args[0], dim, start, start + sizes[index]), item, "unknown")
    item.replace_all_uses_with(part)
    graph.erase_node(item)


def _gate(graph: fx.Graph, glu: fx.Node) -> None:
    source, dim = glu.args[0], g.arguments(glu)["dim"]
    half = g.value(glu).shape[dim]
    with graph.inserting_before(glu):
        a, b = (
            g.insert(graph, aten.slice.Tensor, (source, dim, i * half, (i + 1) * half), glu, "unknown") for i in (0, 1)
        )
        gate = g.insert(graph, aten.sigmoid.default, (b,), glu, "unknown")
        product = g.insert(graph, aten.mul.Tensor, (a, gate), glu, "unknown")
    glu.replace_all_uses_with(product)
    graph.erase_node(glu)
