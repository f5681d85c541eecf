"""Lowers a finished stream graph to a plan: what lies where, and the steps of a frame in order.

Three walks over the graph: `Layout` gives every materialised value a view, `_levels` cuts the graph at its islands, and
`Lowering` emits the steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.expr import Expr
from skipfx.passes.lower_gate import conv_gates, gate_steps, refuse_unlowered
from skipfx.passes.lower_island import island
from skipfx.passes.lower_layout import Layout, base, is_reshape
from skipfx.passes.lower_mask import covered_step, find_masks
from skipfx.passes.lower_step import compute_step, gate_of, layer_name, operand
from skipfx.plan import Compute, Emit, Gate, Ingest, Keep, Pair, Plan, Segment, Source, Step, View

COPY: Expr = ("input", 0)


def lower(gm: fx.GraphModule) -> Plan:
    """The plan of a stream graph.

    Raises:
        CompileError: the graph has a gate or an update that engines do not run.
    """
    refuse_unlowered(gm.graph)
    return Lowering(gm).plan()


class Lowering:
    """Lowers one graph; see `lower`."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm, self.gates, self.masks = gm, conv_gates(gm), find_masks(gm.graph)
        halves = self.masks.heads.keys()
        self.layout = Layout(gm, self.gates.keys() | self.masks.nodes | halves, halves)
        self.level = _levels(gm.graph)
        self.depth = max(self.level.values(), default=0)
        islands = [(node, depth) for node, depth in self.level.items() if _is_island(node) and not is_reshape(node)]
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
        if found.role in ("local", "gate") and self.layout.is_written(node):
            self._compute(node, depth)
        elif found.role == "island" and self.layout.is_written(node):
            self._ingest(node, depth + 1, ("value", node.name), is_frame=False)

    def _ingest(self, node: fx.Node, depth: int, key: tuple[str, int | str], *, is_frame: bool) -> None:
        view = self.layout.views[node]
        self.steps[depth].append(Ingest(len(self.arrays_in[depth]), is_frame, view, view.maps[0], gate_of(node)))
        self.arrays_in[depth].append(key)

    def _copy(self, source: fx.Node, out: View, depth: int) -> None:
        place = operand(self.layout, source)
        active = (Source(place.maps),) if isinstance(place, View) else ()  # a constant is copied on a refresh
        size: Pair = tuple(g.value(source).shape[2:])  # type: ignore[assignment]
        name = self._name(layer_name(source))
        step = Compute(name, "none", None, (place,), COPY, (), out, out.maps[0], Gate(), active, size)
        self.steps[depth].append(step)

    def _compute(self, node: fx.Node, depth: int) -> None:
        steps = self.steps[depth]
        if node in self.gates:
            gate = self.gates[node]
            steps += gate_steps(self.layout, gate, self._step(node, {gate.select: gate.conv}))
        elif node in self.masks.heads:
            masked: list[Any] = self.masks.heads[node]
            mask = self.layout.views[masked[0].args[1]]
            for change, inside in zip(self.layout.views[node].maps, (True, False), strict=True):
                step = self._step(node, {gate: gate.args[0] if inside else None for gate in masked})
                active = (*step.active, Source(mask.maps))
                steps.append(replace(step, map=change, active=active, keep=Keep(mask, inside)))
        elif node.target is ops.covered:
            steps.append(covered_step(self.layout, node, self._name(layer_name(node))))
        else:
            steps.append(self._step(node))

    def _step(self, node: fx.Node, gates: Mapping[fx.Node, fx.Node | None] | None = None) -> Compute:
        step = compute_step(self.layout, node, gates)
        return replace(step, name=self._name(step.name))

    def _name(self, stem: str) -> str:
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
        source = base(node.args[0] if is_reshape(node) else node)  # type: ignore[arg-type]
        if source in self.layout.views:
            return (self.depth, self._emit(source, self.depth, tuple(g.value(node).shape)))
        return source.name


def _is_island(node: fx.Node) -> bool:
    return g.record(node).role == "island"


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
