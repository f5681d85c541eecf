"""Lowers a stream graph to plain ATen that computes only what changed, and that any ONNX runtime can run.

    graph(*frames, *states, refresh [1]) -> (*outputs, *next states, active positions of each layer)

Sites are gathered, computed and scattered (`sites.py`, `write.py`); everything else is taken over from the stream graph
as it stands, so an operator that is not known here is computed whole, and right. What is taken over is written when
somebody asks for it.
"""

from dataclasses import dataclass
from operator import getitem
from typing import Any, Literal

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import CompileError
from skipfx.passes.portable.builder import Builder
from skipfx.passes.portable.fold import fold_frames
from skipfx.passes.portable.frames import Cells
from skipfx.passes.portable.maps import Map, Part, to_nchw
from skipfx.passes.portable.masks import Moves
from skipfx.passes.portable.sites import Site, borders, find_sites, gathered, is_planar, kind, runs
from skipfx.passes.portable.write import write_site
from skipfx.passes.rules import POINT

aten = torch.ops.aten
Layout = Literal["rows", "planar", "planes", "nchw"]


@dataclass(frozen=True)
class State:
    """A state of the portable graph.

    Attributes:
        layer: dotted name of the module whose value it keeps.
        source: the stream graph's name of the state; None for a value that is not held, and kept so that it need not
            be computed again.
        layout: "planes": [C, H W]; "nchw", "rows" or "planar": see `skipfx.passes.portable.maps`.
        border: zeros around the picture in rows and planes.
        size: the map [C, H, W] in it; [] where the state is none.
    """

    layer: str
    source: str | None
    layout: Layout
    border: int
    size: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Layer:
    """A convolution that is gathered.

    Attributes:
        name: dotted name of the module.
        macs: per position.
        positions: of the output.
        block: side of the blocks it is gathered in.
    """

    name: str
    macs: int
    positions: int
    block: int


@dataclass(frozen=True)
class Portable:
    """The result: a module in plain ATen, and what its inputs and outputs are."""

    module: fx.GraphModule
    frames: tuple[tuple[int, ...], ...]
    states: tuple[State, ...]
    layers: tuple[Layer, ...]
    outputs: int

    def zero_states(self) -> list[Tensor]:
        """The states before the first frame, which must be a refresh."""
        return [torch.zeros(state.shape, dtype=state.dtype) for state in self.states]


def lower_portable(gm: fx.GraphModule, *, gather: bool = True) -> Portable:
    """The portable form of a finished stream graph.

    Args:
        gm: the stream graph; it is left as it is.
        gather: compute only what changed; False: the gates and masks stay, but everything is computed whole.

    Raises:
        CompileError: the graph holds nothing that could be skipped.
    """
    if not g.states(gm.graph) and not gm.graph.find_nodes(op="call_function", target=ops.masked):
        raise CompileError(
            "no value of this model is held, so every frame would be computed whole: its thresholds are 0; set them "
            "with skipfx.transform (--threshold, --input-threshold, or --eps for a norm gate)"
        )
    found = Lowering(gm, fold_frames(gm, find_sites(gm)) if gather else []).run()
    if gather and not found.layers:
        raise CompileError(
            "no convolution of this model would gain from skipping in an ONNX runtime (see the cost rule in "
            "docs/deploy-onnx.md): use skipfx compile, or export with gather=False (--dense)"
        )
    return found


class Lowering:
    """Lowers one graph; see `lower_portable`."""

    def __init__(self, gm: fx.GraphModule, sites: list[Site]) -> None:
        self.gm, self.b, self.sites = gm, Builder(), sites
        self.borders, self.gathered = borders(gm, sites), gathered(gm, sites)
        self.maps: dict[fx.Node, Map] = {}  # by the node whose value the others see: a gate, or a value without one
        self.masks: dict[fx.Node, fx.Node | None] = {}
        self.moves: dict[fx.Node, Moves] = {}  # as `maps`: what became of the positions of each
        self.cells: dict[fx.Node, Cells] = {}  # by gate: those of frames
        self.folded: dict[fx.Node, Map] = {}  # by gate: frames as their reader takes them
        self.copies: dict[fx.Node, fx.Node] = {}
        self.slots: dict[str, Slot] = {}
        self.layers: list[Layer] = []
        self.counts: list[fx.Node] = []

    def run(self) -> Portable:
        """The whole graph."""
        graph = self.gm.graph
        for frame in g.frames(graph):
            self.copies[frame] = self.b.input(frame.name)
        refresh = self.b.input("refresh")
        self.refresh = self.copies[g.refresh(graph)] = self.b.reshape(refresh)
        for site in self.sites:
            write_site(self, site)
        outputs = [self.nchw(node) for node in g.outputs(graph)]
        for state, following in zip(g.states(graph), g.next_states(graph), strict=True):
            slot = self.state(state)
            slot.following = slot.following or self.nchw(following)
        slots = [self.slots[key] for key in sorted(self.slots, key=lambda key: (key[0] == "~", len(key), key))]
        self.b.order_inputs([*(self.copies[frame] for frame in g.frames(graph)), *(s.node for s in slots), refresh])
        counts = [self.b.call(aten.stack.default, self.counts)] if self.counts else []
        self.b.graph.output((*outputs, *(slot.following for slot in slots), *counts))
        return Portable(
            fx.GraphModule(self.b.root, self.b.graph),
            tuple(tuple(g.value(frame).shape) for frame in g.frames(graph)),
            tuple(slot.state for slot in slots),
            tuple(self.layers),
            len(outputs),
        )

    def nchw(self, node: fx.Node) -> fx.Node:
        """The value of a node as it is in the stream graph."""
        if node in self.maps:
            return self.maps[node].as_nchw(self.b)
        if node not in self.copies:
            if node.op == "get_attr":
                self.copies[node] = self.parameter(node)
            elif g.record(node).role == "state":
                slot = self.state(node)
                self.copies[node] = slot.node if slot.map is None else to_nchw(self.b, slot.node, slot.map)
            else:
                for source in node.all_input_nodes:
                    self.nchw(source)
                self.copies[node] = self.b.graph.node_copy(node, self.nchw)
        return self.copies[node]

    def parameter(self, node: fx.Node) -> fx.Node:
        """A parameter of the model."""
        tensor = g.parameter(self.gm, node)
        assert tensor is not None
        return self.b.constant(tensor)

    def state(self, node: fx.Node, like: Map | None = None) -> "Slot":
        """The slot of a state of the stream graph; `like` gives its layout where a site keeps it."""
        if like is not None:
            return self._slot(node.name, node, "planar" if like.planar else "rows", like.state_shape, like)
        return self._slot(node.name, node, "nchw", tuple(g.value(node).shape))

    def copied(self, node: fx.Node, like: Map) -> "Slot":
        """A slot of its own, in rows, for a value that is not held, or for one that is, in another layout."""
        return self._slot(f"~{len(self.slots):03d}", node, "rows", like.state_shape, like)

    def kept(self, node: fx.Node) -> "Slot":
        """A slot of its own, in planes, for a value that the stream graph computes anew on every frame."""
        _, channels, height, width = g.value(node).shape
        return self._slot(f"~{len(self.slots):03d}", node, "planes", (int(channels), int(height * width)))

    def _slot(self, key: str, node: fx.Node, layout: Layout, shape: tuple[int, ...], like: Map | None = None) -> "Slot":
        if key not in self.slots:
            value = g.value(node)
            size = like.shape if like else tuple(value.shape[1:]) if value.dim() == 4 else ()
            source = node.name if g.record(node).role == "state" else None
            border = 0 if like is None else like.border
            state = State(g.record(node).layer, source, layout, border, size, shape, value.dtype)
            self.slots[key] = Slot(state, self.b.input(f"state_{len(self.slots)}"), like)
        return self.slots[key]

    def limit(self, test: fx.Node) -> fx.Node:
        """What the distance of a hold test must exceed, [1]: the threshold, which every row exceeds on a refresh."""
        tests = list(self.gm.graph.find_nodes(op="call_function", target=ops.changed))
        values = torch.tensor([limit_of(found) for found in tests])
        limits = self.b.call(aten.where.ScalarSelf, self.refresh, -1.0, self.b.constant(values))
        each = self.b.call(aten.split_with_sizes.default, limits, [1] * len(tests))
        return self.b.call(getitem, each, tests.index(test))

    def count(self, site: Site, numbers: fx.Node) -> None:
        """Counts a layer's active blocks, which have these numbers, [n]."""
        if site.core is None or site.core_node is None:
            return
        _, _, height, width = g.value(site.core_node).shape
        name = g.record(site.core_node).layer or site.core_node.name
        self.layers.append(Layer(name, site.core.macs, int(height * width), site.block))
        length = self.b.call(aten.sym_size.int, numbers, 0)
        self.counts.append(self.b.call(aten.scalar_tensor.default, length, dtype=torch.int64))

    def parts(self, node: fx.Node, *, resized: bool = False) -> list[Part]:
        """The maps that a value is made of; `resized` as for `runs`."""
        found = runs(self.gm, node, resized=resized)
        return [Part(self._map(run.node), run.start, run.count, run.lines) for run in found]

    def input_parts(self, site: Site) -> list[Part]:
        """The maps that a site's convolution reads."""
        assert site.core is not None
        source, single = site.core.inputs[0], site.block == 1 and site.core.window == POINT
        if site.fold > 1:
            return [Part(self.folded[source], 0, self.folded[source].shape[0])]
        return self.parts(source, resized=single)

    def _map(self, node: fx.Node) -> Map:
        if node not in self.maps:
            self.maps[node] = self.new_map(node, nchw=self.nchw(node))
        return self.maps[node]

    def new_map(self, node: fx.Node, nchw: fx.Node | None = None) -> Map:
        """A map for a value, with a border as wide as its readers need."""
        shape: Any = tuple(g.value(node).shape[1:])
        return Map(shape, self.borders.get(kind(node), 0), planar=is_planar(node), nchw=nchw)


def limit_of(test: fx.Node) -> float:
    """The threshold of a hold test, squared for the RMS."""
    threshold, norm = float(test.args[2]), test.args[3]  # type: ignore[arg-type]
    return threshold * threshold if norm == "rms" else threshold


@dataclass
class Slot:
    """A state in the making: its input, and its value after the frame."""

    state: State
    node: fx.Node
    map: Map | None
    following: fx.Node | None = None
