"""Gives pools one form: a window over rows and columns.

1. A mean, sum or maximum over all rows or columns is a pool whose window is that line. One over both is a pool over
   blocks and then one over the results: only blocks that hold a change are read again. So squeeze-and-excite stays
   sparse: its scale is a map of one position, and the block changes where that scale moves by more than its threshold.
2. Adaptive pooling to a size that divides the picture has one window for all positions.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import Stage

aten = torch.ops.aten
MEANS = {aten.mean.dim, aten.sum.dim_IntList}
MAXIMA = {aten.amax.default}
ADAPTIVE = {aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default}


@dataclass(frozen=True)
class NormalisePools(Pass):
    """Whole-picture and adaptive pools become pools over windows."""

    name = "normalise_pools"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.op != "call_function" or not node.args or not g.is_map(_source(node)):
                continue
            with gm.graph.inserting_before(node):
                plain = _rewritten(gm.graph, node)
            if plain is not None:
                node.replace_all_uses_with(plain)
                gm.graph.erase_node(node)
                modified = True
        return modified


def _source(node: fx.Node) -> Any:
    """What is pooled; adaptive maxima come as (values, indices)."""
    first = node.args[0]
    return first.args[0] if node.target is operator.getitem else first  # type: ignore[union-attr]


def _rewritten(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if node.target in MEANS or node.target in MAXIMA:
        return _lines(graph, node)
    if node.target in ADAPTIVE:
        return _adaptive(graph, node, node.args[0], aten.avg_pool2d.default)
    if node.target is operator.getitem and node.args[1] == 0:
        values: Any = node.args[0]
        if values.target is aten.adaptive_max_pool2d.default:
            return _adaptive(graph, node, _source(node), aten.max_pool2d.default)
        if values.target is aten.max_pool2d_with_indices.default:
            return g.insert(graph, aten.max_pool2d.default, values.args, node, "unknown")
    return None


def _lines(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A reduction over whole rows, columns, or both."""
    args, shape = g.arguments(node), g.value(_source(node)).shape
    dims = {dim % 4 for dim in args["dim"] or range(4)}
    if not dims <= {2, 3} or args.get("dtype") is not None:
        return None
    pool = aten.max_pool2d.default if node.target in MAXIMA else aten.avg_pool2d.default
    result: Any = node.args[0]
    if len(dims) == 2:
        result = _whole(graph, node, result, pool)
    else:
        kernel = [shape[dim] if dim in dims else 1 for dim in (2, 3)]
        result = g.insert(graph, pool, (result, kernel), node, "unknown")
    if node.target is aten.sum.dim_IntList:
        count = float(torch.tensor([shape[dim] for dim in dims]).prod())
        result = g.insert(graph, aten.mul.Tensor, (result, count), node, "unknown")
    if not args["keepdim"]:
        result = g.insert(graph, aten.view.default, (result, list(g.value(node).shape)), node, "unknown")
    found: fx.Node = result
    return found


def _adaptive(graph: fx.Graph, node: fx.Node, source: Any, pool: Callable[..., Any]) -> fx.Node | None:
    """Adaptive pooling whose windows are all alike."""
    before, after = g.value(source).shape[2:], g.value(node).shape[2:]
    if any(size % parts for size, parts in zip(before, after, strict=True)):
        return None
    if tuple(after) == (1, 1):
        return _whole(graph, node, source, pool)
    kernel = [size // parts for size, parts in zip(before, after, strict=True)]
    return g.insert(graph, pool, (source, kernel), node, "unknown")


def _whole(graph: fx.Graph, node: fx.Node, source: Any, pool: Callable[..., Any]) -> fx.Node:
    """Pools a whole picture: by blocks about as many as a block has positions, or by rows; then the results."""
    size = [int(n) for n in g.value(source).shape[2:]]
    block = [max(n for n in range(1, isqrt(extent) + 1) if extent % n == 0) for extent in size]
    if block == [1, 1]:
        block = [1, size[1]]
    result: fx.Node = source
    for kernel in (block, [extent // n for extent, n in zip(size, block, strict=True)]):
        if kernel != [1, 1]:
            result = g.insert(graph, pool, (result, kernel), node, "unknown")
    return result
