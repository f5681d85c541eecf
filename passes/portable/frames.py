"""Holds a frame: finds the cells of it that changed, and writes those of their pixels that moved far enough.

A frame is large and comes whole, so all of it is compared; what follows looks at cells of CELL x CELL pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.portable.builder import Builder
from skipfx.passes.portable.grid import ActiveSet, Pair, active_set, as_float, reach, union
from skipfx.passes.portable.maps import CELL, Map, crop, pad
from skipfx.passes.portable.masks import Moves
from skipfx.passes.portable.sites import Site, folded_kind, mask_block
from skipfx.passes.rules import POINT, Window

if TYPE_CHECKING:
    from skipfx.passes.portable.lower import Lowering

aten = torch.ops.aten


@dataclass(frozen=True)
class Cells:
    """Where a frame changed.

    Attributes:
        map: the held frame.
        distance: how far each pixel moved, [1, 1, high, wide], padded as the map is.
        limit: what it must exceed, [1].
        mask: cells that hold a pixel which does, [1, 1, high / CELL, wide / CELL].
    """

    map: Map
    distance: fx.Node
    limit: fx.Node
    mask: fx.Node

    def exact(self, b: Builder) -> fx.Node:
        """The pixels that changed, [1, 1, H, W]."""
        distance = crop(b, self.distance, self.map, (2, 3))
        return as_float(b, b.call(aten.gt.Tensor, distance, self.limit))

    def reach(self, b: Builder, window: Window, size: Pair, block: int) -> fx.Node:
        """As `grid.reach`, by cells where all blocks read whole ones."""
        kernel, stride = [], []
        for k, d, s, p in zip(window.kernel, window.dilation, window.stride, window.padding, strict=True):
            first, extent = self.map.border - p, (block - 1) * s + (k - 1) * d + 1
            if first or block * s % CELL or extent % CELL:
                return reach(b, self.exact(b), window, size, block, self.map.shape[1:])
            kernel.append(extent // CELL)
            stride.append(block * s // CELL)
        through = Window((kernel[0], kernel[1]), (stride[0], stride[1]))
        blocks, mask, cells = (-(-size[0] // block), -(-size[1] // block)), self.mask, [0, 0]
        for axis, length in enumerate(self.map.padded):
            cells[axis], read = length // CELL, (blocks[axis] - 1) * stride[axis] + kernel[axis]
            if read < cells[axis]:
                mask, cells[axis] = b.call(aten.slice.Tensor, mask, axis + 2, 0, read), read
        return reach(b, mask, through, blocks, 1, (cells[0], cells[1]))


def write_frame(low: Lowering, site: Site, gate: fx.Node, test: fx.Node) -> None:
    """Writes the hold of a frame."""
    b, found = low.b, low.new_map(site.seen)
    former: Any = low.state(gate.args[2], found)  # type: ignore[arg-type]
    new = pad(b, low.copies[site.head], found)
    old = b.reshape(former.node, 1, found.shape[0], *found.padded)
    distance = _distance(low, b.call(aten.abs.default, b.call(aten.sub.Tensor, new, old)), found, gate, test)
    limit = low.limit(test)
    cells = Cells(found, distance, limit, _cells(b, distance, limit, found))
    active = active_set(b, cells.mask, found.padded, CELL)
    here = active.reads(b, POINT, 0, found.row, torch.arange(CELL) * found.row // CELL, CELL)
    index = b.call(aten.add.Tensor, here, b.constant(found.planes[:, None, None] // CELL))
    fresh, held = b.take(b.reshape(new, -1, CELL), index), b.take(former.node, index)
    far = b.take(b.reshape(distance, -1, CELL), here)
    blocks = b.call(aten.where.self, b.call(aten.gt.Tensor, far, limit), fresh, held)
    found.rows = former.following = b.put(former.node, b.reshape(index, -1), b.reshape(blocks, -1, CELL))
    low.maps[site.seen] = found
    if site.fold > 1:
        _fold(low, site, active, blocks, far, limit)
    else:
        low.cells[site.seen] = cells


def _fold(low: Lowering, site: Site, active: ActiveSet, blocks: fx.Node, far: fx.Node, limit: fx.Node) -> None:
    """Writes the folded frame, and which of its positions moved.

    Args:
        low: the lowering.
        site: the frame.
        active: cells that changed.
        blocks: what they hold now, [C, n, CELL, CELL]: channels first, so that one mask serves them whole.
        far: how far their pixels moved, [n, CELL, CELL].
        limit: what that must exceed, [1].
    """
    b, fold, channels = low.b, site.fold, int(g.value(site.head).shape[1])
    own_kind = folded_kind(site.head, fold)
    border, size = low.borders[own_kind], own_kind[1:]
    found = low.folded[site.seen] = Map((channels * fold**2, *size), border)
    former = low.copied(site.head, found)
    inner = [CELL // fold, fold]
    rows = b.call(aten.permute.default, b.reshape(blocks, channels, -1, *inner, *inner), [1, 2, 4, 0, 3, 5])
    own = replace(active, size=size, block=CELL // fold).rows(b, border, found.row)
    # maxima of parts, since OpenVINO gets a max-pool over an empty batch wrong
    lines = b.call(aten.amax.default, b.reshape(far, -1, CELL // fold, fold, CELL), [2])
    farthest = b.call(aten.amax.default, b.reshape(lines, -1, (CELL // fold) ** 2, fold), [2])
    moved = b.call(aten.gt.Tensor, farthest, limit)
    found.rows = former.following = b.put(former.node, own, b.reshape(rows, -1, found.shape[0]))
    low.moves[site.seen] = Moves(own, b.reshape(moved, -1), size, border)


def _distance(low: Lowering, delta: fx.Node, found: Map, gate: fx.Node, test: fx.Node) -> fx.Node:
    """What decides on each pixel, [1, 1, high, wide]; dilated in place of the mask, which says the same.

    A maximum over planes is one of parts, since ONNX Runtime reduces over planes slowly.
    """
    b = low.b
    planes = b.call(aten.split_with_sizes.default, delta, [1] * found.shape[0], 1)
    distance = union(b, [b.call(getitem, planes, index) for index in range(found.shape[0])])
    for user in test.users:
        if user.target is ops.dilate:
            size: Any = user.args[1]
            distance = b.call(aten.max_pool2d.default, distance, [size] * 2, [1, 1], [size // 2] * 2)
    block = mask_block(gate)
    if block > 1:
        distance = pad(b, b.call(ops.block_maximum, crop(b, distance, found, (2, 3)), block), found)
    return distance


def _cells(b: Builder, distance: fx.Node, limit: fx.Node, found: Map) -> fx.Node:
    high, wide = found.padded
    bands = b.call(aten.amax.default, b.reshape(distance, high // CELL, CELL, wide), [1])
    largest = b.call(aten.max_pool2d.default, b.reshape(bands, 1, 1, high // CELL, wide), [1, CELL], [1, CELL])
    return as_float(b, b.call(aten.gt.Tensor, largest, limit))
