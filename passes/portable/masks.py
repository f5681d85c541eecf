"""Where a value changed, as a mask; from gates where there are any, else by reach from what it is computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.portable.builder import Builder
from skipfx.passes.portable.grid import (
    ActiveSet,
    Pair,
    active_set,
    as_float,
    reach,
    through_lines,
    union,
)
from skipfx.passes.portable.maps import Map, crop
from skipfx.passes.portable.sites import POOLS, kind, runs
from skipfx.passes.rules import POINT, Local, Window, local

if TYPE_CHECKING:
    from skipfx.passes.portable.lower import Lowering
    from skipfx.passes.portable.sites import Site

aten = torch.ops.aten
WINDOWED = ("conv", *POOLS)


@dataclass(frozen=True)
class Moves:
    """What became of the positions at which a value was computed.

    Attributes:
        rows: of the positions in a map of that border, [m]; None: of all that it has, in order.
        moved: whether the value moved far enough, bool [m].
        size: height and width of the value.
        border: see `rows`.
    """

    rows: fx.Node | None
    moved: fx.Node
    size: Pair
    border: int

    @property
    def padded(self) -> Pair:
        """Height and width with the border."""
        return self.size[0] + 2 * self.border, self.size[1] + 2 * self.border

    def listed(self, b: Builder) -> fx.Node:
        """The rows that moved, [n]."""
        rows = b.constant(torch.arange(math.prod(self.padded))) if self.rows is None else self.rows
        return b.keep(rows, self.moved)

    def flags(self, b: Builder) -> fx.Node:
        """Whether each row moved, bool [(H + 2 border) (W + 2 border)]."""
        if self.rows is None:
            return self.moved
        return b.put(b.constant(torch.zeros(math.prod(self.padded), dtype=torch.bool)), self.rows, self.moved)

    def mask(self, b: Builder) -> fx.Node:
        """Where it moved, with the border, [1, 1, H + 2 border, W + 2 border]."""
        flat = as_float(b, self.moved)
        if self.rows is not None:
            flat = b.put(b.constant(torch.zeros(math.prod(self.padded))), self.rows, flat)
        return b.reshape(flat, 1, 1, *self.padded)

    def exact(self, b: Builder) -> fx.Node:
        """Where it moved, [1, 1, H, W]."""
        return crop(b, self.mask(b), Map((1, *self.size), self.border), (2, 3))

    def reach(self, b: Builder, window: Window, size: Pair, block: int) -> fx.Node:
        """As `grid.reach`."""
        if self.border <= min(window.padding):
            return reach(b, self.mask(b), window, size, block, self.size, self.border)
        return reach(b, self.exact(b), window, size, block, self.size)


def changed(low: Lowering, node: fx.Node) -> fx.Node | None:
    """The mask of a value: float [1, 1, H, W] or [1, 1, 1, 1]; None where it may change anywhere on every frame."""
    if node not in low.masks:
        low.masks[node] = _changed(low, node)
    return low.masks[node]


def _changed(low: Lowering, node: fx.Node) -> fx.Node | None:
    if node in low.cells:
        return low.cells[node].exact(low.b)
    if node in low.moves:
        return low.moves[node].exact(low.b)
    if node.target is ops.select:
        return opened(low, node)
    if g.record(node).role != "local":
        return None
    found = local(low.gm, node)
    masks = [changed(low, source) for source in found.inputs if source.op != "get_attr"]
    known = [mask for mask in masks if mask is not None]
    if len(known) < len(masks):
        return None
    return _through(low, node, found, known)


def _over(b: Builder, mask: fx.Node, size: tuple[int, int]) -> fx.Node:
    """The mask of a position, row or column as that of all positions that it serves."""
    return b.call(aten.maximum.default, mask, b.constant(torch.zeros(1, 1, *size)))


def _through(low: Lowering, node: fx.Node, found: Local, masks: list[fx.Node]) -> fx.Node | None:
    if found.family in ("pointwise", "concat", "slice"):
        every = union(low.b, masks)
        return every if extent(node) in map(extent, found.inputs) else _over(low.b, every, extent(node))
    if found.family in WINDOWED:
        _, _, height, width = g.value(node).shape
        return reach(low.b, masks[0], found.window, (int(height), int(width)), 1, extent(found.inputs[0]))
    if found.family == "resize":
        lines = (torch.tensor([[int(i) for i in t[0]] for t in found.attrs[axis]]) for axis in ("rows", "columns"))
        rows, columns = lines
        return through_lines(low.b, masks[0], (rows, columns))
    return None


def extent(node: fx.Node) -> tuple[int, int]:
    """Height and width of a map."""
    _, _, height, width = g.value(node).shape
    return int(height), int(width)


def opened(low: Lowering, gate: fx.Node) -> fx.Node:
    """Where a gate lets the new value through, when that is known without it."""
    mask = low.b.call(aten.logical_or.default, low.nchw(gate.args[0]), low.refresh)  # type: ignore[arg-type]
    return as_float(low.b, mask)


def pooled(low: Lowering, mask: fx.Node, block: int) -> fx.Node:
    """The mask with every block open that holds an open position; see `skipfx.ops.block_mask`."""
    return as_float(low.b, low.b.call(ops.block_mask, mask, block))


def activate(low: Lowering, site: Site) -> ActiveSet | None:
    """Where a site is computed: wherever something that it reads changed; None where that is not known."""
    if (moves := followed(low, site)) is not None:
        return ActiveSet(moves.listed(low.b), moves.size, 1, moves.border)
    size, sources, window = extent(site.head), site.sources, POINT if site.core is None else site.core.window
    found = [_read(low, site, source, through) for source, through in sources]
    if any(p >= (k - 1) * d + 1 for p, k, d in zip(window.padding, window.kernel, window.dilation, strict=True)):
        found.append(as_float(low.b, low.refresh))  # windows that read nothing but padding
    known = [mask for mask in found if mask is not None]
    if len(known) < len(found):
        return None
    mask = union(low.b, known)
    if any(extent(source) == (1, 1) != size for source, _ in sources) or len(found) > len(sources):
        mask = _over(low.b, mask, (-(-size[0] // site.block), -(-size[1] // site.block)))
    return chosen(low, site, mask)


def blocks_of(low: Lowering, site: Site, mask: fx.Node) -> fx.Node:
    """The blocks of a site that hold an open position."""
    size = extent(site.head)
    return reach(low.b, mask, POINT, size, site.block, size)


def chosen(low: Lowering, site: Site, mask: fx.Node) -> ActiveSet:
    """The blocks of a site that a mask names."""
    border = low.borders.get(kind(site.head), 0) if site.block == 1 else 0
    return active_set(low.b, mask, extent(site.head), site.block, border)


def followed(low: Lowering, site: Site) -> Moves | None:
    """What became of the positions that a site reads, each at the position itself; None where it reads others, too."""
    size, sources = extent(site.head), site.sources
    found = {run.node: low.moves.get(run.node) for source, _ in sources for run in runs(low.gm, source)}
    known = [moves for moves in found.values() if moves is not None and moves.size == size]
    single = site.block == 1 and all(window == POINT for _, window in sources)
    if not single or not known or len(known) < len(found):
        return None
    if len(known) == 1:
        return known[0]
    flags = reduce(partial(low.b.call, aten.logical_or.default), dict.fromkeys(each.flags(low.b) for each in known))
    return Moves(None, flags, size, known[0].border)


def _read(low: Lowering, site: Site, source: fx.Node, window: Window) -> fx.Node | None:
    """Blocks of a site that hold a position which reads something of a source that changed.

    [1, 1, ceil(H / b), ceil(W / b)], or [1, 1, 1, 1] where all change together.
    """
    size, own = extent(site.head), extent(source)
    marks = low.cells.get(source) or low.moves.get(source)
    if marks is not None and (window != POINT or own == size or site.fold > 1):
        return marks.reach(low.b, window, size, site.block)
    mask = changed(low, source)
    if mask is None or own == (1, 1) != size:
        return mask
    if window == POINT and own != size:
        mask, own = _over(low.b, mask, size), size
    return reach(low.b, mask, window, size, site.block, own)
