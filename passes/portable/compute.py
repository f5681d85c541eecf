"""The new values of a site at its active positions: gather, convolution or matrix product, pointwise operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx.passes.portable.fold import folded_weight
from skipfx.passes.portable.grid import ActiveSet
from skipfx.passes.portable.maps import Map, Part, gather_blocks, gather_columns, gather_rows
from skipfx.passes.portable.masks import extent
from skipfx.passes.portable.sites import Site
from skipfx.passes.rules import local

if TYPE_CHECKING:
    from skipfx.passes.portable.lower import Lowering

aten = torch.ops.aten


def new_rows(low: Lowering, site: Site, active: ActiveSet) -> fx.Node:
    """The rows [m, C] that a site computes; before its gate.

    Pointwise operators are those of the model, on rows [m, C]; where parameters per channel stand beside them, on
    positions [m, C, 1, 1], which broadcast as the map [1, C, H, W] does.
    """
    low.count(site, active.numbers)
    channels = int(g.value(site.head).shape[1])
    if site.core_node is not None and site.block > 1 and not site.operands:
        blocks = _pointwise(low, site.head, {site.core_node: _blocks(low, site, active)})
        return _rows(low, blocks, channels)
    whole = [operand for operand in site.operands if extent(operand) == (1, 1) != active.size]
    values: dict[fx.Node, fx.Node] = {operand: low.nchw(operand) for operand in whole}
    for operand in set(site.operands) - set(whole):
        values[operand] = gather_rows(low.b, _over(low, operand, active.size), active)
    if site.core_node is not None and site.block > 1:
        values[site.core_node] = _rows(low, _blocks(low, site, active), int(g.value(site.core_node).shape[1]))
    elif site.core_node is not None:
        values[site.core_node] = _product(low, site, active)
    if not whole and not site.has_parameters:
        return _pointwise(low, site.head, values)
    for node in values.keys() - set(whole):
        values[node] = low.b.reshape(values[node], -1, int(g.value(node).shape[1]), 1, 1)
    return low.b.reshape(_pointwise(low, site.head, values), -1, channels)


def _over(low: Lowering, operand: fx.Node, size: tuple[int, int]) -> list[Part]:
    """The maps that an operand is made of; a row or column is repeated over the picture."""
    if extent(operand) == size:
        return low.parts(operand, resized=True)
    channels = int(g.value(operand).shape[1])
    spread = low.b.call(aten.expand.default, low.nchw(operand), [1, channels, *size])
    return [Part(Map((channels, *size), 0, nchw=spread), 0, channels)]


def _pointwise(low: Lowering, node: fx.Node, values: dict[fx.Node, fx.Node]) -> fx.Node:
    if node not in values and node.op == "get_attr":
        return low.parameter(node)
    if node not in values:
        for source in node.all_input_nodes:
            values[source] = _pointwise(low, source, values)
        values[node] = low.b.graph.node_copy(node, values.__getitem__)
    return values[node]


def _product(low: Lowering, site: Site, active: ActiveSet) -> fx.Node:
    """The rows [n, C_out] of a convolution at single positions."""
    assert site.core is not None
    weight, bias, _ = _parameters(low, site)
    parts = low.input_parts(site)
    columns = gather_columns(low.b, parts, active, site.core.window)
    flat = low.b.constant(weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1))
    return low.b.call(aten.linear.default, columns, flat, bias)


def _blocks(low: Lowering, site: Site, active: ActiveSet) -> fx.Node:
    """The blocks [n, C_out, b, b] of a convolution."""
    assert site.core is not None
    weight, bias, groups = _parameters(low, site)
    window = site.core.window
    blocks = gather_blocks(low.b, low.input_parts(site), active, window)
    geometry = (list(window.stride), [0, 0], list(window.dilation), groups)
    return low.b.call(aten.conv2d.default, blocks, low.b.constant(weight), bias, *geometry)


def _parameters(low: Lowering, site: Site) -> tuple[Tensor, fx.Node | None, int]:
    """Weight, bias and groups of a site's convolution."""
    assert site.core_node is not None
    args = g.arguments(site.core_node)
    weight = g.parameter(low.gm, args["weight"])
    assert weight is not None
    if site.fold > 1:
        weight = folded_weight(weight, local(low.gm, site.core_node).window.padding, site.fold)
    return weight, None if args["bias"] is None else low.parameter(args["bias"]), args["groups"]


def _rows(low: Lowering, blocks: fx.Node, channels: int) -> fx.Node:
    """Blocks [n, C, b, b] as rows [n b b, C]."""
    return low.b.reshape(low.b.call(aten.permute.default, blocks, [0, 2, 3, 1]), -1, channels)
