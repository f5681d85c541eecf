"""Writes a site: which positions are active, their new values, which of them are let through, and the new state.

    tested     the hold gate: the new value decides; rows that have not moved enough are written back as they were.
    chosen     a gate that fires before the value is computed: the frame's hold, and the gates that sit on convolutions.
    kept       an output without a gate: every row that may have changed.
    masked     a convolution of a residual block that has a mask: the open positions; the others are 0.

In each the old rows are read before the state is written, and every other reader sees the new state, so that the two
may be one buffer (`skipfx.in_place` checks that on the exported graph).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.portable.compute import new_rows
from skipfx.passes.portable.grid import ActiveSet, active_set, reach, spread
from skipfx.passes.portable.maps import Map, gather_rows
from skipfx.passes.portable.masks import active_blocks, as_float, frame_opened, opened, pooled
from skipfx.passes.portable.sites import Site, mask_block
from skipfx.passes.rules import POINT

if TYPE_CHECKING:
    from skipfx.passes.portable.lower import Lowering, Slot

aten = torch.ops.aten


def write_site(low: Lowering, site: Site) -> None:
    """Writes a site, unless its sources do not say where they changed; then it is computed whole."""
    if site.gate is not None and site.gate.target is ops.masked:
        _masked(low, site, site.gate)
        return
    test = hold_test(site)
    is_frame = g.record(site.head).role == "frame"
    if site.gate is not None and (test is None or is_frame):
        _chosen(low, site, site.gate, test)
        return
    mask = active_blocks(low, site)
    if mask is None:
        return
    active = _activate(low, site, mask)
    if site.gate is None or test is None:
        _kept(low, site, active)
    else:
        _tested(low, site, active, site.gate, test)


def hold_test(site: Site) -> fx.Node | None:
    """The `changed` of a hold; None for a gate of another kind."""
    node = None if site.gate is None else site.gate.args[0]
    while isinstance(node, fx.Node) and node.target in (ops.block_mask, ops.dilate):
        node = node.args[0]
    return node if isinstance(node, fx.Node) and node.target is ops.changed else None


def _activate(low: Lowering, site: Site, mask: fx.Node) -> ActiveSet:
    _, _, height, width = g.value(site.head).shape
    if site.core is not None:
        low.count(site, mask)
    return active_set(low.b, mask, (int(height), int(width)), site.block)


def _tested(low: Lowering, site: Site, active: ActiveSet, gate: fx.Node, test: fx.Node) -> None:
    b, found = low.b, low.new_map(site.seen)
    found.spare = True
    former = low.state(gate.args[2], found)  # type: ignore[arg-type]
    new = new_rows(low, site, active)
    height, width = active.size
    own, here = active.rows(b, found.border, width), active.rows(b, 0, width)
    still = b.call(aten.le.Tensor, _distance(low, new, b.take(former.node, own), test), low.limit(test))
    moved = as_float(b, b.call(aten.logical_not.default, still))
    mask = b.reshape(b.put(b.constant(torch.zeros(height * width)), here, moved), 1, 1, height, width)
    if gate.args[0] is not test:
        mask = pooled(low, mask, mask_block(gate))
        still = b.call(aten.le.Scalar, b.call(aten.index_select.default, b.reshape(mask, -1), 0, here), 0.0)
    own = b.call(aten.where.self, still, b.constant(torch.tensor(found.state_shape[0] - 1)), own)
    found.rows = former.following = b.put(former.node, own, new)
    low.maps[site.seen], low.masks[site.seen] = found, mask


def _distance(low: Lowering, new: fx.Node, old: fx.Node, test: fx.Node) -> fx.Node:
    """N(new - old) per row, [m]; squared for the RMS, as `Lowering.limit` is."""
    delta = low.b.call(aten.sub.Tensor, new, old)
    if test.args[3] == "rms":
        return low.b.call(aten.mean.dim, low.b.call(aten.mul.Tensor, delta, delta), [1])
    return low.b.call(aten.amax.default, low.b.call(aten.abs.default, delta), [1])


def _chosen(low: Lowering, site: Site, gate: fx.Node, test: fx.Node | None) -> None:
    b, found = low.b, low.new_map(site.seen)
    former = low.state(gate.args[2], found)  # type: ignore[arg-type]
    mask = opened(low, gate) if test is None else frame_opened(low, gate, test)
    _, height, width = found.shape
    active = _activate(low, site, reach(b, mask, POINT, (height, width), site.block, (height, width)))
    if g.record(site.head).role == "frame":
        new = gather_rows(b, [low.frame_part(site.head)], active)
    else:
        new = new_rows(low, site, active)
    if site.block > 1:
        shut = b.call(aten.le.Scalar, b.take(b.reshape(mask, -1, 1), active.rows(b, 0, width)), 0.0)
        old = b.take(former.node, active.rows(b, found.border, width))
        new = b.call(aten.where.self, shut, old, new)
    _scatter(low, former, active, found, new)
    low.maps[site.seen], low.masks[site.seen] = found, mask


def _masked(low: Lowering, site: Site, gate: fx.Node) -> None:
    b, found = low.b, low.new_map(site.seen)
    mask = b.call(aten.where.Scalar, low.nchw(gate.args[1]), 1.0, 0.0)  # type: ignore[arg-type]
    _, height, width = found.shape
    active = _activate(low, site, reach(b, mask, POINT, (height, width), site.block, (height, width)))
    new = new_rows(low, site, active)
    if site.block > 1:
        shut = b.call(aten.le.Scalar, b.take(b.reshape(mask, -1, 1), active.rows(b, 0, width)), 0.0)
        new = b.call(aten.where.ScalarSelf, shut, 0.0, new)
    zeros = b.call(aten.zeros.default, list(found.state_shape))
    found.rows = b.put(zeros, active.rows(b, found.border, width), new)
    low.maps[site.seen] = found


def _kept(low: Lowering, site: Site, active: ActiveSet) -> None:
    found = low.new_map(site.seen)
    found.planar = all(user.op == "output" for user in site.head.users)
    former = low.kept(site.head, found)
    _scatter(low, former, active, found, new_rows(low, site, active))
    low.maps[site.seen] = found


def _scatter(low: Lowering, former: Slot, active: ActiveSet, found: Map, rows: fx.Node) -> None:
    """Writes rows [m, C] into the state."""
    b = low.b
    index = active.rows(b, found.border, found.shape[2])
    if found.planar:
        index = b.reshape(spread(b, b.reshape(index, -1, 1), found.planes), -1)
        rows = b.reshape(rows, -1, 1)
    found.rows = former.following = b.put(former.node, index, rows)
