"""Folds a frame: cells of s x s pixels become one position of C s^2 channels, channel by channel, row by row.

The first convolution of a network has a stride s in most, and on the folded frame it is one of stride 1 whose window
holds ceil(k / s) cells or one more. A frame has few channels, so its pixels are tiny pieces to gather; a cell is one of
s^2 times the size. And the folded frame is a map of its own, with zeros around it for the window: the frame itself is
kept as it comes, and needs none to be compared.
"""

from dataclasses import replace

from torch import Tensor, fx
from torch.nn import functional

from skipfx import graph as g
from skipfx.passes.portable.cost import Layer, prefers_fold
from skipfx.passes.portable.maps import CELL
from skipfx.passes.portable.sites import Site, layer_of, mask_block
from skipfx.passes.rules import Local, Window


def fold_frames(gm: fx.GraphModule, sites: list[Site]) -> list[Site]:
    """The sites, with frames folded where one convolution is all that reads them, and gains from it."""
    found = {site.seen: site for site in sites}
    for frame in [site for site in sites if site.head.op == "placeholder"]:
        readers = [user for user in frame.seen.users if user.op != "output"]
        reader = next((site for site in sites if [site.core_node] == readers), None)
        if reader is None or reader.core is None or frame.seen in g.outputs(gm.graph):
            continue
        fold, core = reader.core.window.stride[0], reader.core
        if not _is_foldable(core, reader):
            continue
        folded = replace(core, window=folded_window(core.window, fold))
        layer = layer_of(gm, core, reader.head)
        if prefers_fold(layer, _folded(layer, folded.window, fold), mask_block(reader.gate)):
            found[frame.seen] = replace(frame, fold=fold)
            found[reader.seen] = replace(reader, core=folded, fold=fold, block=1)
    return list(found.values())


def _is_foldable(core: Local, reader: Site) -> bool:
    """Whether the cells of the fold are parts of those in which a frame is compared; no other operand reads it."""
    down, across = core.window.stride
    square = down == across > 1 and CELL % down == 0
    return square and core.window.dilation == (1, 1) and core.attrs["groups"] == 1 and not reader.operands


def _folded(layer: Layer, window: Window, fold: int) -> Layer:
    channels = layer.channels[0] * fold**2
    macs = channels * layer.channels[1] * window.kernel[0] * window.kernel[1]
    return replace(layer, channels=(channels, layer.channels[1]), window=window, macs=macs, planar=False)


def folded_window(window: Window, fold: int) -> Window:
    """The cells that a window of that stride reads; after the last row and column, it reads as far as outputs ask."""
    before = [-(-p // fold) for p in window.padding]
    kernel = [(k - 1 - p) // fold + b + 1 for k, p, b in zip(window.kernel, window.padding, before, strict=True)]
    return Window((kernel[0], kernel[1]), padding=(before[0], before[1]))


def folded_weight(weight: Tensor, padding: tuple[int, int], fold: int) -> Tensor:
    """The weights [C_out, C, kh, kw] of a convolution of stride `fold` for the folded frame."""
    sides: list[int] = []
    for k, p in reversed(list(zip(weight.shape[2:], padding, strict=True))):
        first = -p % fold
        sides += [first, -(first + k) % fold]
    return functional.pixel_unshuffle(functional.pad(weight, sides), fold)
