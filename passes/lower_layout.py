"""Where the values of a plan lie: buffers, change maps, and a view for every value that is written.

Concatenated values share a buffer, so a concatenation costs nothing; a slice is a view of what it slices.
"""

from collections.abc import Set
from dataclasses import dataclass, field, replace

import numpy as np
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.rules import local
from skipfx.passes.rules.move import in_order
from skipfx.plan import Buffer, Floats, Pair, Source, View


def base(node: fx.Node) -> fx.Node:
    """The value behind a hold gate."""
    while node.target is ops.select:
        inner = node.args[1]
        assert isinstance(inner, fx.Node)
        node = inner
    return node


def readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a value, through its hold gate."""
    found: list[fx.Node] = []
    for user in node.users:
        found += readers(user) if user.target is ops.select and user.args[1] is node else [user]
    return found


def is_reshape(node: fx.Node) -> bool:
    """Whether a value is an output of the model that is a map in another shape: then no island needs to make it."""
    if node.target is not ops.rearrange or any(user.op != "output" for user in node.users):
        return False
    source, steps = node.args
    known = isinstance(source, fx.Node) and g.record(base(source)).role in ("local", "frame")
    return known and in_order(tuple(g.value(source).shape), steps)  # type: ignore[arg-type]


@dataclass
class Layout:
    """Buffers, change maps and views; filled by `place_all`, borders by `widen`.

    Attributes:
        gates: what is written beside held values: gated convolutions, masks, masked values.
        halves: values that two steps write, each a part of the picture.
        copies: per concatenation, the parts that lie elsewhere and where they must be copied to.
    """

    gm: fx.GraphModule
    gates: Set[fx.Node] = frozenset()
    halves: Set[fx.Node] = frozenset()
    buffers: list[Buffer] = field(default_factory=list)
    maps: list[int] = field(default_factory=list)
    views: dict[fx.Node, View] = field(default_factory=dict)
    copies: dict[fx.Node, list[tuple[fx.Node, View]]] = field(default_factory=dict)

    def place_all(self) -> None:
        """Gives every written value a view; outer concatenations first, so that inner ones lie inside them."""
        for node in reversed(self.gm.graph.nodes):
            if self.family(node) == "concat" and node not in self.views:
                self._place_concat(node, self._new_buffer(node), 0)
        for node in self.gm.graph.nodes:
            if self.is_written(node) and node not in self.views:
                self._place(node, self._new_buffer(node), 0)
            elif self.family(node) == "slice":
                self._place_slice(node)

    def is_written(self, node: fx.Node) -> bool:
        """Whether a step writes the value: frames, held values, and island outputs that the sparse region reads."""
        found = g.record(node)
        if found.role == "frame":
            return g.is_map(node)
        if found.role == "island":
            return g.is_map(node) and any(g.record(user).role == "local" for user in readers(node))
        return (found.role == "local" and found.held) or node in self.gates

    def family(self, node: fx.Node) -> str:
        """The family of a local operator, "" for everything else."""
        return local(self.gm, node).family if g.record(node).role == "local" else ""

    def widen(self, view: View, border: int) -> None:
        """Makes sure that windows may reach `border` positions out of the picture."""
        buffer = self.buffers[view.buffer]
        if buffer.border < border:
            self.buffers[view.buffer] = replace(buffer, border=border)

    def reach(self, view: View, window: Source, size: Pair) -> None:
        """Makes sure that a window may stand at every position of an output."""
        buffer = self.buffers[view.buffer]
        for axis, extent in enumerate((buffer.height, buffer.width)):
            reach = (size[axis] - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis]
            self.widen(view, max(window.padding[axis], reach - window.padding[axis] - (extent - 1)))

    def readers(self, view: View, window: Source, size: Pair) -> Source:
        """Where the outputs lie that read each position of an input through a window.

        Args:
            view: of the outputs.
            window: which they read.
            size: of the input.
        """
        found = replace(window, maps=view.maps)
        if window.stride != (1, 1):
            return reader_taps(found, size, self.size(view))[0]
        below, right = ((k - 1) * d - p for k, d, p in zip(window.kernel, window.dilation, window.padding, strict=True))
        found = replace(found, padding=(below, right))
        self.reach(view, found, size)
        return found

    def size(self, view: View) -> Pair:
        """Height and width of a map."""
        buffer = self.buffers[view.buffer]
        return (buffer.height, buffer.width)

    def add(self, height: int, width: int, channels: int) -> View:
        """A map that is no value of the graph."""
        self.buffers.append(Buffer(height, width, channels, 0))
        return View(len(self.buffers) - 1, 0, channels, (self.add_map(len(self.buffers) - 1),))

    def add_map(self, buffer: int) -> int:
        """A change map for a buffer."""
        self.maps.append(buffer)
        return len(self.maps) - 1

    def _new_buffer(self, node: fx.Node) -> int:
        _, channels, height, width = g.value(node).shape
        self.buffers.append(Buffer(int(height), int(width), int(channels), 0))
        return len(self.buffers) - 1

    def _place(self, node: fx.Node, buffer: int, channel: int) -> View:
        maps = tuple(self.add_map(buffer) for _ in range(2 if node in self.halves else 1))
        view = View(buffer, channel, int(g.value(node).shape[1]), maps)
        self.views[node] = view
        return view

    def _place_slice(self, node: fx.Node) -> None:
        found = local(self.gm, node)
        whole = self.views[base(found.inputs[0])]
        channels = int(g.value(node).shape[1])
        self.views[node] = View(whole.buffer, whole.channel + found.attrs["start"], channels, whole.maps)

    def _place_concat(self, node: fx.Node, buffer: int, channel: int) -> None:
        start = channel
        maps: list[int] = []
        for part in local(self.gm, node).inputs:
            source = base(part)
            width = int(g.value(source).shape[1])
            if source not in self.views and self.family(source) == "concat":
                self._place_concat(source, buffer, start)
                view = self.views[source]
            elif source not in self.views and self.is_written(source):
                view = self._place(source, buffer, start)
            else:
                view = View(buffer, start, width, (self.add_map(buffer),))
                self.copies.setdefault(node, []).append((source, view))
            maps += view.maps
            start += width
        self.views[node] = View(buffer, channel, start - channel, tuple(maps))


def _reader_table(extent: int, out: int, axis: tuple[int, int, int, int]) -> tuple[list[list[int]], Floats]:
    """For each line of an input the lines of the output that read it, and weights of 1; filled up with 0.

    Args:
        extent: lines of the input.
        out: lines of the output.
        axis: kernel, stride, padding and dilation.
    """
    kernel, stride, padding, dilation = axis
    reading: list[list[int]] = [[] for _ in range(extent)]
    for line in range(out):
        for k in range(kernel):
            at = line * stride - padding + k * dilation
            if 0 <= at < extent:
                reading[at].append(line)
    widest = max(1, *map(len, reading))
    weights = np.array([[1.0] * len(lines) + [0.0] * (widest - len(lines)) for lines in reading], np.float32)
    return [lines + [lines[0] if lines else 0] * (widest - len(lines)) for lines in reading], weights


def reader_taps(window: Source, size: Pair, out: Pair) -> tuple[Source, tuple[Floats, ...]]:
    """Where the outputs lie that read each position of an input, as taps of their maps, and their weights.

    A position that nothing reads gets a tap too, of weight 0.
    """
    tables, weights = [], []
    for index in range(2):
        axis = (window.kernel[index], window.stride[index], window.padding[index], window.dilation[index])
        table, weight = _reader_table(size[index], out[index], axis)
        tables.append(tuple(map(tuple, table)))
        weights.append(weight)
    return Source(window.maps, "taps", rows=tables[0], columns=tables[1]), tuple(weights)
