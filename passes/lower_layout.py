"""Where the values of a plan lie: buffers, change maps, and a view for every value that is written.

Concatenated values share a buffer, so a concatenation costs nothing; a slice is a view of what it slices.
"""

from dataclasses import dataclass, field, replace

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.rules import local
from skipfx.plan import Buffer, View


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


@dataclass
class Layout:
    """Buffers, change maps and views; filled by `place_all`, borders by `widen`.

    Attributes:
        copies: per concatenation, the parts that lie elsewhere and where they must be copied to.
    """

    gm: fx.GraphModule
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
        return found.role == "local" and found.held

    def family(self, node: fx.Node) -> str:
        """The family of a local operator, "" for everything else."""
        return local(self.gm, node).family if g.record(node).role == "local" else ""

    def widen(self, view: View, border: int) -> None:
        """Makes sure that windows may reach `border` positions out of the picture."""
        buffer = self.buffers[view.buffer]
        if buffer.border < border:
            self.buffers[view.buffer] = replace(buffer, border=border)

    def _new_buffer(self, node: fx.Node) -> int:
        _, channels, height, width = g.value(node).shape
        self.buffers.append(Buffer(int(height), int(width), int(channels), 0))
        return len(self.buffers) - 1

    def _new_map(self, buffer: int) -> int:
        self.maps.append(buffer)
        return len(self.maps) - 1

    def _place(self, node: fx.Node, buffer: int, channel: int) -> View:
        view = View(buffer, channel, int(g.value(node).shape[1]), (self._new_map(buffer),))
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
                view = View(buffer, start, width, (self._new_map(buffer),))
                self.copies.setdefault(node, []).append((source, view))
            maps += view.maps
            start += width
        self.views[node] = View(buffer, channel, start - channel, tuple(maps))
