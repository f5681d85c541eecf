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
from skipfx.passes.portable.grid import ActiveSet, block_input, offsets, spread
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

    def as_nchw(self, b: Builder) -> fx.Node:
        """The map as [1, C, H, W]."""
        if self.nchw is None:
            assert self.rows is not None
            self.nchw = to_nchw(b, self.rows, self)
        return self.nchw

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
    """What the window of each active block reads, position by position and channel by channel, [n, k C]."""
    count = math.prod(block_input(window, active.block)[0])
    found = []
    for part in parts:
        rows = _read(b, part.map, active, window)
        if part.map.planar and count > 1:
            rows = b.call(aten.permute.default, b.reshape(rows, -1, part.map.shape[0], count), [0, 2, 1])
        elif part.map.planar:
            rows = b.reshape(rows, -1, part.map.shape[0])
        found.append(_cut(b, rows, part, -1))
    joined = found[0] if len(found) == 1 else b.call(aten.cat.default, found, -1)
    return joined if count == 1 else b.reshape(joined, -1, count * sum(part.count for part in parts))


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


def gather_rows(b: Builder, parts: list[Part], active: ActiveSet) -> fx.Node:
    """The rows of the active positions themselves, [m, C]."""
    if active.block == 1:
        return gather_columns(b, parts, active, POINT)
    found = []
    for part in parts:
        assert not part.map.planar
        rows = b.take(part.map.as_rows(b), active.rows(b, part.map.border, part.map.shape[2]))
        found.append(_cut(b, rows, part, -1))
    return found[0] if len(found) == 1 else b.call(aten.cat.default, found, -1)


def _read(b: Builder, found: Map, active: ActiveSet, window: Window) -> fx.Node:
    """The numbers that the active blocks read: [n, k, C] or [n, C]; planar: [n, C k, 1]."""
    channels, height, width = found.shape
    steps = offsets(*block_input(window, active.block), width + 2 * found.border)
    if found.planar:
        plane = (height + 2 * found.border) * (width + 2 * found.border)
        steps = (steps + torch.arange(channels)[:, None] * plane).reshape(-1)
    return b.take(found.as_rows(b), spread(b, active.starts(b, window, found.border, width), steps))


def _cut(b: Builder, node: fx.Node, part: Part, axis: int) -> fx.Node:
    if part.count == part.map.shape[0]:
        return node
    return b.call(aten.slice.Tensor, node, axis, part.start, part.start + part.count)
