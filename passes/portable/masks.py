"""Where a value changed, as a mask; from gates where there are any, else by reach from what it is computed from."""

from __future__ import annotations

from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.portable.builder import Builder
from skipfx.passes.portable.grid import reach, through_lines, union
from skipfx.passes.portable.sites import mask_block
from skipfx.passes.rules import POINT, Local, local

if TYPE_CHECKING:
    from skipfx.passes.portable.lower import Lowering
    from skipfx.passes.portable.sites import Site

aten = torch.ops.aten
WINDOWED = ("conv", "max_pool", "avg_pool")


def changed(low: Lowering, node: fx.Node) -> fx.Node | None:
    """The mask of a value: float [1, 1, H, W] or [1, 1, 1, 1]; None where it may change anywhere on every frame."""
    if node not in low.masks:
        low.masks[node] = _changed(low, node)
    return low.masks[node]


def _changed(low: Lowering, node: fx.Node) -> fx.Node | None:
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


def frame_opened(low: Lowering, gate: fx.Node, test: fx.Node) -> fx.Node:
    """`opened` for the hold of a frame: the distance is dilated in place of the mask, which says the same.

    A maximum over planes is a chain of maxima, since ONNX Runtime reduces over them slowly.
    """
    b, args = low.b, test.args
    frame: Any = args[0]
    former: Any = args[1]
    delta = b.call(aten.abs.default, b.call(aten.sub.Tensor, low.nchw(frame), low.nchw(former)))
    channels = int(g.value(frame).shape[1])
    planes = b.call(aten.split_with_sizes.default, delta, [1] * channels, 1)
    distance = union(b, [b.call(getitem, planes, index) for index in range(channels)])
    sizes: list[Any] = [user.args[1] for user in test.users if user.target is ops.dilate]
    for size in sizes:
        distance = b.call(aten.max_pool2d.default, distance, [size] * 2, [1, 1], [size // 2] * 2)
    mask = as_float(b, b.call(aten.gt.Tensor, distance, low.limit(test)))
    block = mask_block(gate)
    return mask if block == 1 else pooled(low, mask, block)


def pooled(low: Lowering, mask: fx.Node, block: int) -> fx.Node:
    """The mask with every block open that holds an open position; see `skipfx.ops.block_mask`."""
    return as_float(low.b, low.b.call(ops.block_mask, mask, block))


def as_float(b: Builder, mask: fx.Node) -> fx.Node:
    """A bool mask as 0 and 1."""
    return b.call(aten.to.dtype, mask, torch.float32)


def active_blocks(low: Lowering, site: Site) -> fx.Node | None:
    """Blocks of a site that hold a position which reads something that changed; None where that is not known.

    [1, 1, ceil(H / b), ceil(W / b)], or [1, 1, 1, 1] where all change together.
    """
    size, window = extent(site.head), POINT if site.core is None else site.core.window
    sources = [(source, POINT) for source in site.operands if source.op != "get_attr"]
    if site.core is not None:
        sources.append((site.core.inputs[0], window))
    found = []
    for source, through in sources:
        mask, own = changed(low, source), extent(source)
        if mask is None:
            return None
        whole = own == (1, 1) != size
        if through == POINT and own != size and not whole:
            mask, own = _over(low.b, mask, size), size
        found.append(mask if whole else reach(low.b, mask, through, size, site.block, own))
    if any(p >= (k - 1) * d + 1 for p, k, d in zip(window.padding, window.kernel, window.dilation, strict=True)):
        found.append(as_float(low.b, low.refresh))  # windows that read nothing but padding
    every, grid = union(low.b, found), (-(-size[0] // site.block), -(-size[1] // site.block))
    return every if len(found) == 1 and not whole else _over(low.b, every, grid)
