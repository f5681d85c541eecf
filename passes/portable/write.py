"""Writes a site: which positions are active, their new values, which of them are let through, and the new state.

    tested     the hold gate: the new value decides; rows that moved far enough are written.
    chosen     a gate that fires before the value is computed: those that sit on convolutions.
    kept       a value without a gate: every row that may have changed.
    masked     a convolution of a residual block that has a mask: the open positions; the others are 0.

In each the old rows are read before the state is written, and every other reader sees the new state, so that the two
may be one buffer (`skipfx.in_place` checks that on the exported graph).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.portable.compute import new_rows
from skipfx.passes.portable.frames import write_frame
from skipfx.passes.portable.grid import ActiveSet, is_set
from skipfx.passes.portable.masks import Moves, activate, blocks_of, chosen, followed, opened, pooled
from skipfx.passes.portable.sites import Site, hold_test, mask_block

if TYPE_CHECKING:
    from skipfx.passes.portable.lower import Lowering

aten = torch.ops.aten


def write_site(low: Lowering, site: Site) -> None:
    """Writes a site, unless its sources do not say where they changed; then it is computed whole."""
    if site.gate is not None and site.gate.target is ops.masked:
        _masked(low, site, site.gate)
        return
    test = hold_test(site.gate)
    if site.gate is not None and test is None:
        _chosen(low, site, site.gate)
    elif site.gate is not None and test is not None and g.record(site.head).role == "frame":
        write_frame(low, site, site.gate, test)
    elif (active := activate(low, site)) is not None:
        if site.gate is None or test is None:
            _kept(low, site, active)
        else:
            _tested(low, site, active, site.gate, test)


def _tested(low: Lowering, site: Site, active: ActiveSet, gate: fx.Node, test: fx.Node) -> None:
    b, found = low.b, low.new_map(site.seen)
    former = low.state(gate.args[2], found)  # type: ignore[arg-type]
    new = new_rows(low, site, active)
    own = active.rows(b, found.border, found.row)
    moved = b.call(aten.gt.Tensor, _distance(low, new, b.take(former.node, own), test), low.limit(test))
    if gate.args[0] is not test:
        mask = pooled(low, Moves(own, moved, active.size, found.border).exact(b), mask_block(gate))
        low.masks[site.seen] = mask
        here = active.rows(b, 0, active.size[1])
        moved = is_set(b, b.call(aten.index_select.default, b.reshape(mask, -1), 0, here))
    low.moves[site.seen] = Moves(own, moved, active.size, found.border)
    found.written = b.keep(own, moved), b.keep(new, moved)
    found.rows = former.following = b.put(former.node, *found.written)
    low.maps[site.seen] = found


def _distance(low: Lowering, new: fx.Node, old: fx.Node, test: fx.Node) -> fx.Node:
    """N(new - old) per row, [m]; squared for the RMS, as `Lowering.limit` is."""
    delta = low.b.call(aten.sub.Tensor, new, old)
    if test.args[3] == "rms":
        return low.b.call(aten.mean.dim, low.b.call(aten.mul.Tensor, delta, delta), [1])
    return low.b.call(aten.amax.default, low.b.call(aten.abs.default, delta), [1])


def _chosen(low: Lowering, site: Site, gate: fx.Node) -> None:
    b, found = low.b, low.new_map(site.seen)
    former = low.state(gate.args[2], found)  # type: ignore[arg-type]
    mask = opened(low, gate)
    active = chosen(low, site, blocks_of(low, site, mask))
    new = new_rows(low, site, active)
    if site.block > 1:
        shut = b.call(aten.le.Scalar, b.take(b.reshape(mask, -1, 1), active.rows(b, 0, active.size[1])), 0.0)
        old = b.take(former.node, active.rows(b, found.border, found.row))
        new = b.call(aten.where.self, shut, old, new)
    found.rows = former.following = b.put(former.node, active.rows(b, found.border, found.row), new)
    low.maps[site.seen], low.masks[site.seen] = found, mask


def _masked(low: Lowering, site: Site, gate: fx.Node) -> None:
    b, found = low.b, low.new_map(site.seen)
    mask = b.call(aten.where.Scalar, low.nchw(gate.args[1]), 1.0, 0.0)  # type: ignore[arg-type]
    active = chosen(low, site, blocks_of(low, site, mask))
    new = new_rows(low, site, active)
    if site.block > 1:
        shut = b.call(aten.le.Scalar, b.take(b.reshape(mask, -1, 1), active.rows(b, 0, active.size[1])), 0.0)
        new = b.call(aten.where.ScalarSelf, shut, 0.0, new)
    zeros = b.call(aten.zeros.default, list(found.state_shape))
    found.rows = b.put(zeros, active.rows(b, found.border, found.row), new)
    low.maps[site.seen] = found


def _kept(low: Lowering, site: Site, active: ActiveSet) -> None:
    b, found = low.b, low.new_map(site.seen)
    new = new_rows(low, site, active)
    if site.seen in low.gathered:
        own, former = active.rows(b, found.border, found.row), low.copied(site.head, found)
        found.written = own, new
        found.rows = former.following = b.put(former.node, *found.written)
        if (moves := followed(low, site)) is not None:
            low.moves[site.seen] = moves
    else:
        found, former = replace(found, border=0), low.kept(site.head)
        where = b.call(aten.expand.default, b.reshape(active.rows(b, 0, found.row), 1, -1), [found.shape[0], -1])
        columns = b.call(aten.permute.default, new, [1, 0])
        former.following = b.call(aten.scatter.src, former.node, 1, where, columns)
        found.nchw = b.reshape(former.following, 1, *found.shape)
    low.maps[site.seen] = found
