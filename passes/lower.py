"""Lowers a finished stream graph to a plan: what lies where, and the steps of a frame in order.

Three walks over the graph: `Layout` gives every materialised value a view, `_levels` cuts the graph at its islands, and
`Lowering` emits the steps.
"""

from dataclasses import replace

import numpy as np
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import CompileError
from skipfx.expr import Expr
from skipfx.passes.lower_group import Group
from skipfx.passes.lower_island import island
from skipfx.passes.lower_layout import Layout, base
from skipfx.passes.rules import Local
from skipfx.passes.rules.move import in_order
from skipfx.plan import Compute, Emit, Floats, Gate, Ingest, Plan, Segment, Source, Step, View

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
            "the engine runs the hold gate with update='recompute'; other gates and updates run in PyTorch, "
            "or exported (skipfx export)"
        )


def gate_of(node: fx.Node) -> Gate:
    """The hold test on a value; threshold 0 where there is none."""
    for user in node.users:
        if user.target is ops.changed and user.args[0] is node:
            dilated = [after for after in user.users if after.target is ops.dilate]
            size = dilated[0].args[1] if dilated else 1
            return Gate(float(user.args[2]), user.args[3], size)  # type: ignore[arg-type]
    return Gate()


class Lowering:
    """Lowers one graph; see `lower`."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm, self.layout = gm, Layout(gm)
        self.level = _levels(gm.graph)
        self.depth = max(self.level.values(), default=0)
        islands = [(node, depth) for node, depth in self.level.items() if _is_island(node) and not _is_reshape(node)]
        self.islands = [[node for node, depth in islands if depth == k] for k in range(self.depth + 1)]
        self.steps: list[list[Step]] = [[] for _ in range(self.depth + 1)]
        self.arrays_in: list[list[tuple[str, int | str]]] = [[] for _ in range(self.depth + 1)]
        self.arrays_out: list[list[tuple[int, ...]]] = [[] for _ in range(self.depth + 1)]
        self.emitted: dict[tuple[int, View, tuple[int, ...]], int] = {}
        self.names: set[str] = set()

    def plan(self) -> Plan:
        """The whole plan."""
        self.layout.place_all()
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

    def _lower(self, node: fx.Node) -> None:
        found = g.record(node)
        depth = self.level.get(node, 0)
        for source, view in self.layout.copies.get(node, []):
            self._copy(source, view, depth)
        if found.role == "local" and found.held:
            self._compute(node, depth)
        elif found.role == "island" and self.layout.is_written(node):
            self._ingest(node, depth + 1, ("value", node.name), is_frame=False)

    def _ingest(self, node: fx.Node, depth: int, key: tuple[str, int | str], *, is_frame: bool) -> None:
        view = self.layout.views[node]
        self.steps[depth].append(Ingest(len(self.arrays_in[depth]), is_frame, view, view.maps[0], gate_of(node)))
        self.arrays_in[depth].append(key)

    def _copy(self, source: fx.Node, out: View, depth: int) -> None:
        operand = self._operand(source)
        _, _, height, width = g.value(source).shape
        active = (Source(operand.maps),) if isinstance(operand, View) else ()  # a constant is copied on a refresh
        self.steps[depth].append(
            Compute(
                self._name(source),
                "none",
                None,
                (operand,),
                COPY,
                (),
                out,
                out.maps[0],
                Gate(),
                active,
                (height, width),
            )
        )

    def _compute(self, node: fx.Node, depth: int) -> None:
        group = Group(self.gm)
        expr = group.build(node)
        core = group.core
        out = self.layout.views[node]
        size: tuple[int, int] = tuple(g.value(node).shape[2:])  # type: ignore[assignment]
        operands = tuple(self._operand(operand) for operand in group.operands)
        active = [] if core is None else [self._core_source(core, size)]
        for operand, place in zip(group.operands, operands, strict=True):
            if isinstance(place, View):
                active.append(_operand_source(place, tuple(g.value(operand).shape[2:]), size))
        step = Compute(
            self._name(node if group.core_node is None else group.core_node), "none", None, operands, expr,
            tuple(group.channels), out, out.maps[0], gate_of(node), tuple(dict.fromkeys(active)), size,
        )  # fmt: skip
        self.steps[depth].append(step if core is None else self._with_core(step, core))

    def _operand(self, node: fx.Node) -> View | Floats:
        """Where an operand lies, or the values of a constant."""
        tensor = g.parameter(self.gm, node)
        if tensor is None:
            return self.layout.views[base(node)]
        return tensor.detach()[0].movedim(0, -1).contiguous().numpy()

    def _core_source(self, core: Local, size: tuple[int, int]) -> Source:
        view = self.layout.views[base(core.inputs[0])]
        if core.family in ("resize", "move"):
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
            return _weights(self.gm, step, core, view)
        if core.family == "resize":
            taps = tuple(np.array([t[1] for t in core.attrs[axis]], np.float32) for axis in ("rows", "columns"))
            return replace(step, core="resize", source=view, taps=taps)
        if core.family in ("move", "reduce"):
            name, tables = core.attrs.get("kind", core.family), core.attrs.get("tables", ())
            return replace(step, core=name, source=view, tables=tables, number=core.attrs["number"])
        return replace(step, core=core.family, source=view, count_pad=core.attrs.get("count_pad", True))  # type: ignore[arg-type]

    def _name(self, node: fx.Node) -> str:
        stem = g.record(node).layer or node.name
        name, number = stem, 1
        while name in self.names:
            number += 1
            name = f"{stem}#{number}"
        self.names.add(name)
        return name

    def _emit(self, node: fx.Node, depth: int, shape: tuple[int, ...]) -> int:
        """The array of a segment that holds a map, in some shape; emitted once."""
        key = (depth, self.layout.views[base(node)], shape)
        if key not in self.emitted:
            self.emitted[key] = len(self.arrays_out[depth])
            self.steps[depth].append(Emit(len(self.arrays_out[depth]), key[1]))
            self.arrays_out[depth].append(shape)
        return self.emitted[key]

    def _segment(self, depth: int) -> Segment:
        found = None
        constants = [n for n in g.outputs(self.gm.graph) if n.op == "get_attr"] if depth == self.depth else []
        if self.islands[depth] or constants:
            found = island(
                self.gm, self.islands[depth], f"island_{depth}", lambda node: self._island_input(node, depth), constants
            )
        return Segment(tuple(self.steps[depth]), tuple(self.arrays_in[depth]), tuple(self.arrays_out[depth]), found)

    def _island_input(self, node: fx.Node, depth: int) -> tuple[str, int | str]:
        source = base(node)
        if source in self.layout.views:
            return ("array", self._emit(source, depth, tuple(g.value(source).shape)))
        return ("value", source.name)

    def _output(self, node: fx.Node) -> tuple[int, int] | str:
        source = base(node.args[0] if _is_reshape(node) else node)  # type: ignore[arg-type]
        if source in self.layout.views:
            return (self.depth, self._emit(source, self.depth, tuple(g.value(node).shape)))
        return source.name


def _operand_source(view: View, operand: tuple[int, ...], size: tuple[int, int]) -> Source:
    """Where a change of an operand shows: at its own position, along its line, or everywhere."""
    if operand == size:
        return Source(view.maps)
    if operand == (1, 1):
        return Source(view.maps, "whole")
    rows, columns = (
        tuple((line if own == full else 0,) for line in range(full)) for own, full in zip(operand, size, strict=True)
    )
    return Source(view.maps, "taps", rows=rows, columns=columns)


def _weights(gm: fx.GraphModule, step: Compute, core: Local, source: View) -> Compute:
    """The step with the weights of its convolution."""
    args = g.arguments(core.attrs["node"])
    weight, bias = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    assert weight is not None
    depthwise = 1 < args["groups"] == source.channels == weight.shape[0]
    return replace(
        step,
        core="depthwise" if depthwise else "conv",
        source=source,
        macs=core.macs,
        weight=weight.detach().float().numpy(),
        bias=None if bias is None else bias.detach().float().numpy(),
        groups=args["groups"],
    )


def _is_island(node: fx.Node) -> bool:
    return g.record(node).role == "island"


def _is_reshape(node: fx.Node) -> bool:
    """Whether a value is an output of the model that is a map in another shape: then no island needs to make it."""
    if node.target is not ops.rearrange or any(user.op != "output" for user in node.users):
        return False
    source, steps = node.args
    known = isinstance(source, fx.Node) and g.record(base(source)).role in ("local", "frame")
    return known and in_order(tuple(g.value(source).shape), steps)  # type: ignore[arg-type]


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
