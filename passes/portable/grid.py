"""Which positions are active, and where their rows lie: masks, index sets and tables of row numbers.

A mask is float [1, 1, H, W], 1 where a value changed, or [1, 1, 1, 1] where it changes as a whole. An active set names
blocks of b x b output positions by their number; b = 1 means single positions. Where the picture is no multiple of b
the last block is moved inwards and overlaps the one before it: both compute the same values.
"""

from dataclasses import dataclass
from operator import getitem

import torch
from torch import Tensor, fx

from skipfx.passes.portable.builder import Builder
from skipfx.passes.rules import POINT, Window

aten = torch.ops.aten
Pair = tuple[int, int]


def as_float(b: Builder, mask: fx.Node) -> fx.Node:
    """A bool mask as 0 and 1."""
    return b.call(aten.to.dtype, mask, torch.float32)


def union(b: Builder, masks: list[fx.Node]) -> fx.Node:
    """Where any of the masks is set."""
    first, *others = dict.fromkeys(masks)
    for other in others:
        first = b.call(aten.maximum.default, first, other)
    return first


def reach(b: Builder, mask: fx.Node, window: Window, size: Pair, block: int, extent: Pair, border: int = 0) -> fx.Node:
    """Blocks of output positions whose window holds a set position, [1, 1, ceil(H / b), ceil(W / b)].

    A dilated window counts as the solid one around it, so that a few positions more may be named.

    Args:
        b: where to write.
        mask: of the input.
        window: from outputs to inputs; after the last row and column it reaches as far as the outputs ask for.
        size: height and width of the output.
        block: side b of the blocks.
        extent: height and width of the input.
        border: width of the zeros that the mask has around the input, not more than the window's padding.
    """
    solid = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    stride, padding = list(window.stride), list(window.padding)
    sides: list[int] = []
    for axis, (out, length, k, s, p) in reversed(
        list(enumerate(zip(size, extent, solid, stride, padding, strict=True)))
    ):
        after = (out - 1) * s + k - p - length - border
        if -after >= s:
            mask = b.call(aten.slice.Tensor, mask, axis + 2, 0, length + 2 * border + after)
        sides += [p - border, max(0, after)]
    padding = [p - border for p in padding]
    if any(2 * p > k for p, k in zip(padding, solid, strict=True)) or sides[::2] != sides[1::2]:
        if any(sides):
            mask = b.call(aten.constant_pad_nd.default, mask, sides)
        padding = [0, 0]
    if any(length % block for length in size):
        mask = _pool(b, mask, solid, stride, padding)
        return b.call(aten.max_pool2d.default, mask, [block] * 2, [block] * 2, [0, 0], [1, 1], True)
    kernel = [(block - 1) * s + k for s, k in zip(stride, solid, strict=True)]
    return _pool(b, mask, kernel, [block * s for s in stride], padding)


def _pool(b: Builder, mask: fx.Node, kernel: list[int], stride: list[int], padding: list[int]) -> fx.Node:
    if kernel == [1, 1] and stride == [1, 1] and padding == [0, 0]:
        return mask
    return b.call(aten.max_pool2d.default, mask, kernel, stride, padding)


def through_lines(b: Builder, mask: fx.Node, lines: tuple[Tensor, Tensor]) -> fx.Node:
    """Output positions that read a set position through lists of rows and columns, each [out, taps]."""
    for axis, taps in zip((2, 3), lines, strict=True):
        gathered = b.call(aten.index_select.default, mask, axis, b.constant(taps.T.reshape(-1)))
        parts = b.call(aten.chunk.default, gathered, taps.shape[1], axis)
        mask = union(b, [b.call(getitem, parts, i) for i in range(taps.shape[1])])
    return mask


@dataclass(frozen=True)
class ActiveSet:
    """Active blocks of a grid of output positions.

    Attributes:
        numbers: of the active blocks, [n]; of single positions, their rows in a map of that border.
        size: height and width of the grid, in positions.
        block: side b of a block.
        border: see `numbers`; 0 for blocks.
    """

    numbers: fx.Node
    size: Pair
    block: int
    border: int = 0

    def reads(self, b: Builder, window: Window, border: int, row: int, steps: Tensor, unit: int = 1) -> fx.Node:
        """Rows that the blocks read, each at the same steps from its first input position: [n, steps], or [n] if one.

        Args:
            b: where to write.
            window: from outputs to inputs.
            border: of the input.
            row: distance of its lines.
            steps: int64 [k], in units.
            unit: rows that are read at once.
        """
        table = block_starts(self.size, self.block, window, border, row) // unit
        numbers = own_numbers(self.size, self.block, self.border)
        shift = table - numbers
        if len(set(shift.tolist())) == 1:
            first, steps = self.numbers, steps + shift[0]
            if steps.numel() > 1:
                first = b.reshape(first, -1, 1)
        else:
            first = select(b, table if steps.numel() == 1 else table[:, None], numbers, self.numbers)
        return first if steps.tolist() == [0] else b.call(aten.add.Tensor, first, b.constant(steps))

    def select(self, b: Builder, table: Tensor) -> fx.Node:
        """What a table says of each active block, [n]."""
        return select(b, table, own_numbers(self.size, self.block, self.border), self.numbers)

    def rows(self, b: Builder, border: int, row: int) -> fx.Node:
        """Row of every active position in a map of the grid's size, with that border and distance of lines, [m]."""
        found = self.reads(b, POINT, border, row, offsets((self.block,) * 2, (1, 1), row))
        return found if self.block == 1 else b.reshape(found, -1)


def own_numbers(size: Pair, block: int, border: int) -> Tensor:
    """The numbers of all blocks of a grid, as an `ActiveSet` has them, int64 [blocks]."""
    if block == 1:
        return block_starts(size, 1, POINT, border, size[1] + 2 * border)
    return torch.arange(-(-size[0] // block) * -(-size[1] // block))


def select(b: Builder, table: Tensor, numbers: Tensor, which: fx.Node) -> fx.Node:
    """The entries of a table, which has one for each of the numbers, at some of them, [n, *shape of an entry]."""
    spread = torch.zeros(int(numbers[-1]) + 1, *table.shape[1:], dtype=torch.int64)
    spread[numbers] = table
    return b.call(aten.index_select.default, b.constant(spread), 0, which)


def active_set(b: Builder, mask: fx.Node, size: Pair, block: int, border: int = 0) -> ActiveSet:
    """The blocks that a mask names, [1, 1, ceil(H / b), ceil(W / b)]."""
    numbers = own_numbers(size, block, border)
    return ActiveSet(b.keep(b.constant(numbers), is_set(b, b.reshape(mask, -1))), size, block, border)


def is_set(b: Builder, mask: fx.Node) -> fx.Node:
    """A mask as bool."""
    return b.call(aten.gt.Scalar, mask, 0.0)


def offsets(extent: Pair, dilation: Pair, row_width: int) -> Tensor:
    """Row numbers of a window's positions relative to its first, int64 [h * w]."""
    down = torch.arange(extent[0])[:, None] * dilation[0] * row_width
    return (down + torch.arange(extent[1])[None] * dilation[1]).reshape(-1)


def block_input(window: Window, block: int) -> tuple[Pair, Pair]:
    """Height and width of what a block of outputs reads, and the distance of its rows and columns."""
    if block == 1:
        return window.kernel, window.dilation
    down, across = (
        (block - 1) * s + (k - 1) * d + 1 for s, k, d in zip(window.stride, window.kernel, window.dilation, strict=True)
    )
    return (down, across), (1, 1)


def block_starts(size: Pair, block: int, window: Window, border: int, row: int) -> Tensor:
    """Row of the first input position of every block of a grid, int64 [blocks]; `row`: distance of the lines."""
    axes = []
    for axis in (0, 1):
        first = torch.arange(-(-size[axis] // block)) * block
        first = first.clamp(max=size[axis] - block)
        axes.append(first * window.stride[axis] - window.padding[axis] + border)
    return (axes[0][:, None] * row + axes[1][None]).reshape(-1)
