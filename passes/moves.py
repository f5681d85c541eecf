"""Moved values in their simplest form."""

from typing import Any

import numpy as np
import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.rules.common import Refuse
from skipfx.passes.rules.move import origins

aten = torch.ops.aten


def moved(graph: fx.Graph, source: fx.Node, steps: tuple[Any, ...], like: fx.Node) -> fx.Node:
    """A map behind the steps: itself, a run of channels, or a rearrangement; inserted with the layer of `like`."""
    move = g.insert(graph, ops.rearrange, (source, steps), like, "unknown")
    shape, result = tuple(g.value(source).shape), tuple(g.value(move).shape)
    try:
        found, _ = origins(shape, steps)
    except Refuse:
        return move
    start, plane = int(found.flat[0]), shape[2] * shape[3]
    if start < 0 or not np.array_equal(found.reshape(-1), np.arange(start, start + found.size)):
        return move
    if result == shape:
        graph.erase_node(move)
        return source
    if len(result) == 4 and result[0] == 1 and result[2:] == shape[2:]:
        graph.erase_node(move)
        first = start // plane
        return g.insert(graph, aten.slice.Tensor, (source, 1, first, first + result[1]), like, "unknown")
    return move
