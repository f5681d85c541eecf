"""A feature map in the portable graph, in whichever layouts it is there, and how to read parts of it.

Rows: [(H + 2 border) (W + 2 border), C], a row per position and zeros around the picture; what a gather reads.
Planar: [C (H + 2 border) (W + 2 border) / CELL, CELL], plane by plane; for frames, which come as planes of few
channels. Height and width are rounded up to whole cells of CELL x CELL positions.
NCHW: [1, C, H, W]; what dense operators read.
"""

import math
from dataclasses import dataclass

import torch
from torch import fx

from skipfx.passes.portable.builder import Builder
from skipfx.passes.portable.grid import ActiveSet, block_input, block_starts, offsets
from skipfx.passes.rules import POINT, Window

aten = torch.ops.aten
CELL = 4


@dataclass
class Map:
    """A feature map [1, C, H, W].

    Attributes:
        shape: C, H, W.
        border: width of the zeros around the picture in `rows`.
        rows: the map in rows, once it is needed.
        planar: `rows` is planar.
        nchw: the map as it is, once it is needed.
        written: rows that were just written, [m], and their values, [m, C].
    """

    shape: tuple[int, int, int]
    border: int
    rows: fx.Node | None = None
    planar: bool = False
    nchw: fx.Node | None = None
    written: tuple[fx.Node, fx.Node] | None = None

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the picture and what is around it."""
        unit = CELL if self.planar else 1
        high, wide = (-(-(length + 2 * self.border) // unit) * unit for length in self.shape[1:])
        return high, wide

    @property
    def row(self) -> int:
        """Distance of the lines in `rows`."""
        return self.padded[1]

    @property
    def state_shape(self) -> tuple[int, int]:
        """Shape of `rows`."""
        positions = math.prod(self.padded)
        return (positions * self.shape[0] // CELL, CELL) if self.planar else (positions, self.shape[0])

    @property
    def planes(self) -> torch.Tensor:
        """The first number of each channel, where the map is planar."""
        return torch.arange(self.shape[0]) * math.prod(self.padded)

    def as_nchw(self, b: Builder) -> fx.Node:
        """The map as [1, C, H, W]."""
        if self.nchw is None:
            assert self.rows is not None
            self.nchw = to_nchw(b, self.rows, self)
        return self.nchw

    def in_runs(self, b: Builder, run: int) -> fx.Node:
        """A planar map with so many numbers in a row."""
        return self.as_rows(b) if run == CELL else b.reshape(self.as_rows(b), -1, run)

    def as_rows(self, b: Builder) -> fx.Node:
        """The map in rows."""
        if self.rows is None:
            assert self.nchw is not None
            self.rows = to_rows(b, self.nchw, self)
        return self.rows


def to_nchw(b: Builder, rows: fx.Node, like: Map) -> fx.Node:
    """Rows in the layout of `like`, as [1, C, H, W]."""
    channels = like.shape[0]
    planes = like.planar or channels == 1
    node = b.reshape(rows, *((1, channels, *like.padded) if planes else (1, *like.padded, channels)))
    node = crop(b, node, like, (2, 3) if planes else (1, 2))
    return node if planes else b.call(aten.permute.default, node, [0, 3, 1, 2])


def crop(b: Builder, node: fx.Node, like: Map, axes: tuple[int, int]) -> fx.Node:
    """The picture in what is padded as `like` is."""
    for axis, length, whole in zip(axes, like.shape[1:], like.padded, strict=True):
        if length < whole:
            node = b.call(aten.slice.Tensor, node, axis, like.border, like.border + length)
    return node


def pad(b: Builder, nchw: fx.Node, like: Map) -> fx.Node:
    """A map [1, C, H, W] with zeros around it as `like` has them."""
    sides: list[int] = []
    for length, whole in reversed(list(zip(like.shape[1:], like.padded, strict=True))):
        sides += [like.border, whole - length - like.border]
    return b.call(aten.constant_pad_nd.default, nchw, sides) if any(sides) else nchw


def to_rows(b: Builder, nchw: fx.Node, like: Map) -> fx.Node:
    """A map [1, C, H, W] as rows in the layout of `like`."""
    planes = like.planar or like.shape[0] == 1
    node = pad(b, nchw, like)
    return b.reshape(node if planes else b.call(aten.permute.default, node, [0, 2, 3, 1]), *like.state_shape)


@dataclass(frozen=True)
class Part:
    """A run of channels of a map; a concatenation is a list of them. `lines` as in `sites.Run`."""

    map: Map
    start: int
    count: int
    lines: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def index(self, b: Builder, active: ActiveSet, window: Window) -> fx.Node:
        """Rows that the active positions read through a window of one position, [m]."""
        row, border = self.map.row, self.map.border
        if self.lines is None:
            index = active.reads(b, window, border, row, offsets((active.block, active.block), (1, 1), row))
            return index if active.block == 1 else b.reshape(index, -1)
        down, across = (torch.tensor(lines) + border for lines in self.lines)
        return active.select(b, (down[:, None] * row + across).reshape(-1))


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
        found.append(_cut(b, _rows(b, part, part.index(b, active, window)), part, 1))
    return found[0] if len(found) == 1 else b.call(aten.cat.default, found, 1)


def _rows(b: Builder, part: Part, index: fx.Node) -> fx.Node:
    if part.map.written is not None and part.map.written[0] is index:
        return part.map.written[1]
    if part.map.planar:
        numbers = b.call(aten.add.Tensor, b.reshape(index, -1, 1), b.constant(part.map.planes))
        return b.reshape(b.take(part.map.in_runs(b, 1), numbers), -1, part.map.shape[0])
    return b.take(part.map.as_rows(b), index)


def _read(b: Builder, found: Map, active: ActiveSet, window: Window) -> fx.Node:
    """The numbers that the active blocks read: [n, k, C]; planar: [n, C k / run, run]."""
    extent, dilation = block_input(window, active.block)
    steps = offsets(extent, dilation, found.row)
    if not found.planar:
        return b.take(found.as_rows(b), active.reads(b, window, found.border, found.row, steps))
    run = _run(found, active, window)
    steps = (steps.reshape(extent)[:, ::run].reshape(-1) + found.planes[:, None]).reshape(-1) // run
    return b.take(found.in_runs(b, run), active.reads(b, window, found.border, found.row, steps, run))


def _run(found: Map, active: ActiveSet, window: Window) -> int:
    """How many numbers of a plane every block may read at once: pieces of so many start where all its lines do."""
    (_, across), dilation = block_input(window, active.block)
    starts = block_starts(active.size, active.block, window, found.border, found.row)
    lengths = [across if dilation[1] == 1 else 1, found.row, *found.planes.tolist(), *starts.tolist()]
    return math.gcd(*lengths)


def _cut(b: Builder, node: fx.Node, part: Part, axis: int) -> fx.Node:
    if part.count == part.map.shape[0]:
        return node
    return b.call(aten.slice.Tensor, node, axis, part.start, part.start + part.count)
