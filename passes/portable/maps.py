"""A feature map in the portable graph, in whichever layouts it is there, and how to read parts of it.

Rows: [(H + 2 border) (W + 2 border), C], a row per position and zeros around the picture; what a gather reads. A value
behind a hold test has one row more: rows that are not let through are written there, and nobody reads it.
Planar: [C (H + 2 border) (W + 2 border), 1], a row per number; for frames, which come as planes of few channels, and
for outputs, which leave so.
NCHW: [1, C, H, W]; what dense operators read.
"""

import math
from dataclasses import dataclass

import torch
from torch import fx

from skipfx.passes.portable.builder import Builder
from skipfx.passes.portable.grid import ActiveSet, block_input, block_starts, offsets, spread
from skipfx.passes.rules import POINT, Window

aten = torch.ops.aten


@dataclass
class Map:
    """A feature map [1, C, H, W].

    Attributes:
        shape: C, H, W.
        border: width of the zeros around the picture in `rows`.
        rows: the map in rows, once it is needed.
        planar: `rows` is planar.
        spare: `rows` has one row more.
        nchw: the map as it is, once it is needed.
    """

    shape: tuple[int, int, int]
    border: int
    rows: fx.Node | None = None
    planar: bool = False
    spare: bool = False
    nchw: fx.Node | None = None

    @property
    def state_shape(self) -> tuple[int, int]:
        """Shape of `rows`."""
        channels, height, width = self.shape
        rows = (height + 2 * self.border) * (width + 2 * self.border)
        return (rows * channels, 1) if self.planar else (rows + self.spare, channels)

    @property
    def planes(self) -> torch.Tensor:
        """Row of the first number of each channel, where the map is planar."""
        channels, height, width = self.shape
        return torch.arange(channels) * (height + 2 * self.border) * (width + 2 * self.border)

    def as_nchw(self, b: Builder) -> fx.Node:
        """The map as [1, C, H, W]."""
        if self.nchw is None:
            assert self.rows is not None
            self.nchw = to_nchw(b, self.rows, self)
        return self.nchw

    def in_runs(self, b: Builder, run: int) -> fx.Node:
        """The map in rows; planar: with so many numbers in a row."""
        return self.as_rows(b) if run == 1 else b.reshape(self.as_rows(b), -1, run)

    def as_rows(self, b: Builder) -> fx.Node:
        """The map in rows."""
        if self.rows is None:
            assert self.nchw is not None
            self.rows = to_rows(b, self.nchw, self)
        return self.rows


def to_nchw(b: Builder, rows: fx.Node, like: Map) -> fx.Node:
    """Rows in the layout of `like`, as [1, C, H, W]."""
    channels, height, width = like.shape
    high, wide = height + 2 * like.border, width + 2 * like.border
    planes = like.planar or channels == 1
    if like.spare:
        rows = b.call(aten.slice.Tensor, rows, 0, 0, high * wide)
    node = b.reshape(rows, *((1, channels, high, wide) if planes else (1, high, wide, channels)))
    if like.border:
        down, across = (2, 3) if planes else (1, 2)
        node = b.call(aten.slice.Tensor, node, down, like.border, like.border + height)
        node = b.call(aten.slice.Tensor, node, across, like.border, like.border + width)
    return node if planes else b.call(aten.permute.default, node, [0, 3, 1, 2])


def to_rows(b: Builder, nchw: fx.Node, like: Map) -> fx.Node:
    """A map [1, C, H, W] as rows in the layout of `like`."""
    planes = like.planar or like.shape[0] == 1
    if like.border:
        nchw = b.call(aten.constant_pad_nd.default, nchw, [like.border] * 4)
    return b.reshape(nchw if planes else b.call(aten.permute.default, nchw, [0, 2, 3, 1]), *like.state_shape)


@dataclass(frozen=True)
class Part:
    """A run of channels of a map; a concatenation is a list of them."""

    map: Map
    start: int
    count: int


def gather_columns(b: Builder, parts: list[Part], active: ActiveSet, window: Window) -> fx.Node:
    """What the window of each active position reads, position by position and channel by channel, [n, k C]."""
    extent, _ = block_input(window, active.block)
    if extent == (1, 1):
        return gather_rows(b, parts, active, window)
    count = math.prod(extent)
    found = []
    for part in parts:
        rows, channels = _read(b, part.map, active, window), part.map.shape[0]
        if part.map.planar:
            rows = b.call(aten.permute.default, b.reshape(rows, -1, channels, count), [0, 2, 1])
        found.append(_cut(b, rows, part, 2))
    joined = found[0] if len(found) == 1 else b.call(aten.cat.default, found, 2)
    return b.reshape(joined, -1, count * sum(part.count for part in parts))


def gather_blocks(b: Builder, parts: list[Part], active: ActiveSet, window: Window) -> fx.Node:
    """What the active blocks read through a window, [n, C, h, w]."""
    extent, _ = block_input(window, active.block)
    found = []
    for part in parts:
        rows, channels = _read(b, part.map, active, window), part.map.shape[0]
        if part.map.planar:
            block = b.reshape(rows, -1, channels, *extent)
        else:
            block = b.call(aten.permute.default, b.reshape(rows, -1, *extent, channels), [0, 3, 1, 2])
        found.append(_cut(b, block, part, 1))
    return found[0] if len(found) == 1 else b.call(aten.cat.default, found, 1)


def gather_rows(b: Builder, parts: list[Part], active: ActiveSet, window: Window = POINT) -> fx.Node:
    """The rows that the active positions read through a window of one position, [m, C]."""
    found = []
    for part in parts:
        width, border = part.map.shape[2], part.map.border
        starts = active.starts(b, window, border, width)
        index = spread(b, starts, offsets((active.block, active.block), (1, 1), width + 2 * border))
        if part.map.planar:
            index = spread(b, b.reshape(index, -1, 1), part.map.planes)
            rows = b.reshape(b.take(part.map.as_rows(b), index), -1, part.map.shape[0])
        else:
            rows = b.take(part.map.as_rows(b), b.reshape(index, -1))
        found.append(_cut(b, rows, part, 1))
    return found[0] if len(found) == 1 else b.call(aten.cat.default, found, 1)


def _read(b: Builder, found: Map, active: ActiveSet, window: Window) -> fx.Node:
    """The numbers that the active blocks read: [n, k, C]; planar: [n, C k / run, run]."""
    extent, dilation = block_input(window, active.block)
    width, border = found.shape[2], found.border
    steps, run = offsets(extent, dilation, width + 2 * border), 1
    if found.planar:
        run = _run(found, active, window)
        steps = (steps.reshape(extent)[:, ::run].reshape(-1) + found.planes[:, None]).reshape(-1) // run
    return b.take(found.in_runs(b, run), spread(b, active.starts(b, window, border, width, run), steps))


def _run(found: Map, active: ActiveSet, window: Window) -> int:
    """How many numbers of a plane every block may read at once: pieces of so many start where all its lines do."""
    (_, across), dilation = block_input(window, active.block)
    width = found.shape[2]
    starts = block_starts(active.size, active.block, window, found.border, width)
    lengths = [across if dilation[1] == 1 else 1, width + 2 * found.border, *found.planes.tolist(), *starts.tolist()]
    return math.gcd(*lengths)


def _cut(b: Builder, node: fx.Node, part: Part, axis: int) -> fx.Node:
    if part.count == part.map.shape[0]:
        return node
    return b.call(aten.slice.Tensor, node, axis, part.start, part.start + part.count)
