"""Lowers a finished stream graph to a plan: what lies where, and the steps of a frame in order.

Three walks over the graph: `_place` gives every materialised value a view (concatenated values share a buffer, so a
concatenation costs nothing), `_levels` cuts the graph at its islands, and `Lowering` emits the steps.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import CompileError
from skipfx.expr import Expr
from skipfx.passes.lower_island import island
from skipfx.passes.rules import Local, local
from skipfx.passes.rules.common import VIEWS
from skipfx.plan import Buffer, Compute, Emit, Floats, Gate, Ingest, Plan, Segment, Source, Step, View

COPY: Expr = ("input", 0)


def lower(gm: fx.GraphModule) -> Plan:
    """The plan of a stream graph with the hold gate.

    Raises:
        CompileError: the graph has a gate or an update that the engine does not run.
    """
    _refuse_unlowered(gm.graph)
    return Lowering(gm).plan()


def _refuse_unlowered(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if g.record(node).role != "gate" or node.target in (ops.changed, ops.select, ops.dilate):
            continue
        if node.target is ops.block_mask:
            raise CompileError("block masks run in PyTorch only so far: compile with block=1, which a CPU prefers")
        raise CompileError(
            "the engine runs the hold gate with update='recompute'; other gates and updates run in PyTorch only so far"
        )


def base(node: fx.Node) -> fx.Node:
    """The value behind a hold gate."""
    while node.target is ops.select:
        inner = node.args[1]
        assert isinstance(inner, fx.Node)
        node = inner
    return node


def gate_of(node: fx.Node) -> Gate:
    """The hold test on a value; threshold 0 where there is none."""
    for user in node.users:
        if user.target is ops.changed and user.args[0] is node:
            dilated = [after for after in user.users if after.target is ops.dilate]
            size = dilated[0].args[1] if dilated else 1
            return Gate(float(user.args[2]), user.args[3], size)  # type: ignore[arg-type]
    return Gate()


@dataclass
class _Layout:
    """Buffers, change maps and the view of every value that has one."""

    buffers: list[Buffer] = field(default_factory=list)
    maps: list[int] = field(default_factory=list)
    views: dict[fx.Node, View] = field(default_factory=dict)
    copies: dict[fx.Node, list[tuple[fx.Node, View]]] = field(default_factory=dict)

    def new_buffer(self, node: fx.Node) -> int:
        _, channels, height, width = g.value(node).shape
        self.buffers.append(Buffer(int(height), int(width), int(channels), 0))
        return len(self.buffers) - 1

    def new_map(self, buffer: int) -> int:
        self.maps.append(buffer)
        return len(self.maps) - 1

    def place(self, node: fx.Node, buffer: int, channel: int) -> View:
        """Puts a value that is written at some channel of a buffer."""
        view = View(buffer, channel, int(g.value(node).shape[1]), (self.new_map(buffer),))
        self.views[node] = view
        return view

    def widen(self, view: View, border: int) -> None:
        """Makes sure that windows may reach `border` positions out of the picture."""
        buffer = self.buffers[view.buffer]
        if buffer.border < border:
            self.buffers[view.buffer] = replace(buffer, border=border)


class Lowering:
    """Lowers one graph; see `lower`."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm, self.layout = gm, _Layout()
        self.level = _levels(gm.graph)
        self.depth = max(self.level.values(), default=0)
        self.islands = [[n for n, d in self.level.items() if d == k and _is_island(n)] for k in range(self.depth + 1)]
        self.steps: list[list[Step]] = [[] for _ in range(self.depth + 1)]
        self.arrays_in: list[list[tuple[str, int | str]]] = [[] for _ in range(self.depth + 1)]
        self.arrays_out: list[list[tuple[int, ...]]] = [[] for _ in range(self.depth + 1)]
        self.emitted: dict[tuple[int, View], int] = {}
        self.names: set[str] = set()

    def plan(self) -> Plan:
        """The whole plan."""
        self._place()
        frames = g.frames(self.gm.graph)
        for index, frame in enumerate(frames):
            self._ingest(frame, 0, ("frame", index), is_frame=True)
        for node in self.gm.graph.nodes:
            self._lower(node)
        segments = [self._segment(depth) for depth in range(self.depth)]
        outputs = tuple(self._output(node) for node in g.outputs(self.gm.graph))
        segments.append(self._segment(self.depth))
        shapes = tuple(tuple(g.value(frame).shape) for frame in frames)
        return Plan(shapes, tuple(self.layout.buffers), tuple(self.layout.maps), tuple(segments), outputs)

    def _place(self) -> None:
        """Gives every written value a view; outer concatenations first, so that inner ones lie inside them."""
        for node in reversed(self.gm.graph.nodes):
            if self._family(node) == "concat" and node not in self.layout.views:
                self._place_concat(node, self.layout.new_buffer(node), 0)
        for node in self.gm.graph.nodes:
            if self._is_written(node) and node not in self.layout.views:
                self.layout.place(node, self.layout.new_buffer(node), 0)
            elif self._family(node) == "slice":
                found = local(self.gm, node)
                whole = self.layout.views[base(found.inputs[0])]
                channels = int(g.value(node).shape[1])
                self.layout.views[node] = View(
                    whole.buffer, whole.channel + found.attrs["start"], channels, whole.maps
                )

    def _place_concat(self, node: fx.Node, buffer: int, channel: int) -> None:
        start, maps = channel, []
        for part in local(self.gm, node).inputs:
            source = base(part)
            width = int(g.value(source).shape[1])
            if source not in self.layout.views and self._family(source) == "concat":
                self._place_concat(source, buffer, start)
                view = self.layout.views[source]
            elif source not in self.layout.views and self._is_written(source):
                view = self.layout.place(source, buffer, start)
            else:
                view = View(buffer, start, width, (self.layout.new_map(buffer),))
                self.layout.copies.setdefault(node, []).append((source, view))
            maps += view.maps
            start += width
        self.layout.views[node] = View(buffer, channel, start - channel, tuple(maps))

    def _family(self, node: fx.Node) -> str:
        return local(self.gm, node).family if g.record(node).role == "local" else ""

    def _is_written(self, node: fx.Node) -> bool:
        found = g.record(node)
        if found.role == "frame":
            return g.is_map(node)
        if found.role == "island":
            return g.is_map(node) and any(_reads_map(user) for user in _readers(node))
        return found.role == "local" and found.held

    def _lower(self, node: fx.Node) -> None:
        found = g.record(node)
        depth = self.level.get(node, 0)
        for source, view in self.layout.copies.get(node, []):
            self._copy(source, view, depth)
        if found.role == "local" and found.held:
            self._compute(node, depth)
        elif found.role == "island" and self._is_written(node):
            self._ingest(node, depth + 1, ("value", node.name), is_frame=False)

    def _ingest(self, node: fx.Node, depth: int, key: tuple[str, int | str], *, is_frame: bool) -> None:
        view = self.layout.views[node]
        self.steps[depth].append(Ingest(len(self.arrays_in[depth]), is_frame, view, view.maps[0], gate_of(node)))
        self.arrays_in[depth].append(key)

    def _copy(self, source: fx.Node, out: View, depth: int) -> None:
        view = self.layout.views[source]
        _, _, height, width = g.value(source).shape
        active = (Source(view.maps),)
        self.steps[depth].append(
            Compute(self._name(source), "none", None, (view,), COPY, (), out, out.maps[0], Gate(), active, (height, width))
        )

    def _compute(self, node: fx.Node, depth: int) -> None:
        group = _Group(self.gm)
        expr = group.build(node)
        core = group.core
        out = self.layout.views[node]
        size: tuple[int, int] = tuple(g.value(node).shape[2:])  # type: ignore[assignment]
        operands = tuple(self.layout.views[base(operand)] for operand in group.operands)
        active = [] if core is None else [self._core_source(core, size)]
        for operand, view in zip(group.operands, operands, strict=True):
            same = tuple(g.value(operand).shape[2:]) == size
            active.append(Source(view.maps) if same else Source(view.maps, "whole"))
        step = Compute(
            self._name(node if group.core_node is None else group.core_node), "none", None, operands, expr,
            tuple(group.channels), out, out.maps[0], gate_of(node), tuple(dict.fromkeys(active)), size,
        )  # fmt: skip
        self.steps[depth].append(step if core is None else self._with_core(step, core))

    def _core_source(self, core: Local, size: tuple[int, int]) -> Source:
        view = self.layout.views[base(core.inputs[0])]
        if core.family == "resize":
            rows, columns = (tuple(tuple(map(int, t[0])) for t in core.attrs[axis]) for axis in ("rows", "columns"))
            return Source(view.maps, "taps", rows=rows, columns=columns)
        window, buffer = core.window, self.layout.buffers[view.buffer]
        for axis, extent in enumerate((buffer.height, buffer.width)):
            reach = (size[axis] - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis]
            overhang = reach - window.padding[axis] - (extent - 1)
            self.layout.widen(view, max(window.padding[axis], overhang))
        return Source(view.maps, "window", window.kernel, window.stride, window.padding, window.dilation)

    def _with_core(self, step: Compute, core: Local) -> Compute:
        view = self.layout.views[base(core.inputs[0])]
        if core.family == "conv":
            return replace(step, source=view, macs=core.macs, **_weights(self.gm, core, view.channels, step.out.channels))
        if core.family == "resize":
            taps = tuple(np.array([t[1] for t in core.attrs[axis]], np.float32) for axis in ("rows", "columns"))
            return replace(step, core="resize", source=view, taps=taps)
        return replace(step, core=core.family, source=view, count_pad=core.attrs.get("count_pad", True))  # type: ignore[arg-type]

    def _name(self, node: fx.Node) -> str:
        stem = g.record(node).layer or node.name
        name, number = stem, 1
        while name in self.names:
            number += 1
            name = f"{stem}#{number}"
        self.names.add(name)
        return name

    def _emit(self, node: fx.Node, depth: int) -> int:
        """The array of a segment that holds a map; emitted once."""
        view = self.layout.views[base(node)]
        if (depth, view) not in self.emitted:
            self.emitted[depth, view] = len(self.arrays_out[depth])
            self.steps[depth].append(Emit(len(self.arrays_out[depth]), view))
            self.arrays_out[depth].append(tuple(g.value(node).shape))
        return self.emitted[depth, view]

    def _segment(self, depth: int) -> Segment:
        found = None
        if self.islands[depth]:
            found = island(self.gm, self.islands[depth], f"island_{depth}", lambda node: self._island_input(node, depth))
        return Segment(
            tuple(self.steps[depth]), tuple(self.arrays_in[depth]), tuple(self.arrays_out[depth]), found
        )

    def _island_input(self, node: fx.Node, depth: int) -> tuple[str, int | str]:
        source = base(node)
        if source in self.layout.views:
            return ("array", self._emit(source, depth))
        return ("value", source.name)

    def _output(self, node: fx.Node) -> tuple[int, int] | str:
        source = base(node)
        if source in self.layout.views:
            return (self.depth, self._emit(source, self.depth))
        return source.name


class _Group:
    """A materialised value as one core (or none) and an expression over it."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.core: Local | None = None
        self.core_node: fx.Node | None = None
        self.operands: list[fx.Node] = []
        self.channels: list[Floats] = []

    def build(self, node: fx.Node) -> Expr:
        """The expression of a value, numbered as `skipfx.plan.Compute` says."""
        expr = self._expr(node)
        shift = int(self.core is not None)
        return _renumber(expr, shift)

    def _expr(self, node: fx.Node) -> Expr:
        found = local(self.gm, node)
        if found.family != "pointwise":
            self.core, self.core_node = found, node
            return ("core",)
        first = len(self.channels)
        for parameter in found.channels:
            tensor = g.parameter(self.gm, parameter)
            assert tensor is not None
            self.channels.append(tensor.detach().reshape(-1).numpy().astype(np.float32))
        inputs = [self._operand(source) for source in found.inputs]
        return _fill(found.expr, inputs, first)

    def _operand(self, source: fx.Node) -> Expr:
        record = g.record(source)
        if record.role == "local" and not record.held and local(self.gm, source).family not in VIEWS:
            return self._expr(source)
        if source not in self.operands:
            self.operands.append(source)
        return ("operand", self.operands.index(source))


def _fill(expr: Expr, inputs: list[Expr], first_channel: int) -> Expr:
    if expr[0] == "input":
        return inputs[expr[1]]
    if expr[0] == "channel":
        return ("channel", expr[1] + first_channel)
    if expr[0] == "const":
        return expr
    return (expr[0], *(_fill(part, inputs, first_channel) for part in expr[1:]))


def _renumber(expr: Expr, shift: int) -> Expr:
    if expr[0] == "core":
        return ("input", 0)
    if expr[0] == "operand":
        return ("input", expr[1] + shift)
    if expr[0] in ("channel", "const"):
        return expr
    return (expr[0], *(_renumber(part, shift) for part in expr[1:]))


def _weights(gm: fx.GraphModule, core: Local, channels_in: int, channels_out: int) -> dict[str, object]:
    node = core.attrs["node"]
    args = g.arguments(node)
    weight, bias = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    assert weight is not None
    groups = args["groups"]
    depthwise = groups == channels_in == channels_out and groups > 1
    return {
        "core": "depthwise" if depthwise else "conv",
        "weight": weight.detach().float().numpy(),
        "bias": None if bias is None else bias.detach().float().numpy(),
        "groups": groups,
    }


def _is_island(node: fx.Node) -> bool:
    return g.record(node).role == "island"


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a value, through its hold gate."""
    found: list[fx.Node] = []
    for user in node.users:
        found += _readers(user) if user.target is ops.select and user.args[1] is node else [user]
    return found


def _reads_map(user: fx.Node) -> bool:
    return g.record(user).role == "local"


def _levels(graph: fx.Graph) -> dict[fx.Node, int]:
    """The segment in which a value is made: an island ends a segment, what reads it stands in the next."""
    level: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "output":
            continue
        sources = [source for source in node.all_input_nodes if source in level]
        after = [level[s] + int(_is_island(s) and not _is_island(node)) for s in sources]
        level[node] = max(after, default=0)
    return level
