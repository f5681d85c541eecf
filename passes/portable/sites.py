"""Finds what can be gathered in a stream graph: held values, convolutions behind a gate or mask or without.

A site is a materialised value (a core or none, and the pointwise operators behind it, as `fuse_chains` grouped them)
with the gate that decides what of it is written. Everything else is computed whole, as it stands in the stream graph.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.lower_group import Group
from skipfx.passes.lower_layout import base
from skipfx.passes.portable.cost import Layer, choose_block
from skipfx.passes.portable.maps import CELL
from skipfx.passes.rules import POINT, Local, Window, local
from skipfx.passes.rules.common import VIEWS

POOLS = ("max_pool", "avg_pool")


@dataclass(frozen=True)
class Site:
    """A value that is computed where it may have changed.

    Attributes:
        head: the value.
        gate: the `select` that holds it, or the `masked` that cuts it out; None for a value that is not held.
        core: the convolution, if there is one, and its node.
        core_node: see `core`.
        operands: values that the pointwise operators read at the position itself.
        block: side of the blocks in which it is gathered.
        has_parameters: the pointwise operators read parameters per channel.
        fold: the core reads a frame folded by so much (`skipfx.passes.portable.fold`); of a frame: it is read so.
    """

    head: fx.Node
    gate: fx.Node | None
    core: Local | None
    core_node: fx.Node | None
    operands: tuple[fx.Node, ...]
    block: int
    has_parameters: bool = False
    fold: int = 1

    @property
    def seen(self) -> fx.Node:
        """The node whose value the others see."""
        return self.gate or self.head

    @property
    def sources(self) -> list[tuple[fx.Node, Window]]:
        """What it reads of the network's values, and through which window."""
        found = [(operand, POINT) for operand in self.operands if operand.op != "get_attr"]
        return found if self.core is None else [*found, (self.core.inputs[0], self.core.window)]


def find_sites(gm: fx.GraphModule) -> list[Site]:
    """The sites of a stream graph, in order."""
    gates: dict[fx.Node, list[fx.Node]] = {}
    for state, gate in zip(g.states(gm.graph), g.next_states(gm.graph), strict=True):
        if gate.target is ops.select and gate.args[2] is state:  # else it is a residual sum
            value: Any = gate.args[1]
            gates.setdefault(value, []).append(gate)
    found: list[Site | None] = []
    for node in gm.graph.nodes:
        record, own = g.record(node), gates.get(node, [])
        if node.target is ops.masked:
            value = node.args[0]
            if g.record(value).role == "local" and local(gm, value).family == "conv":
                found.append(_site(gm, value, node))
        elif record.role == "frame":
            found += [Site(node, gate, None, None, (), 1) for gate in own if hold_test(gate)]
        elif _is_materialised(gm, node) and (own or not _is_gated(node)):
            found.append(_site(gm, node, own[0] if own else None))
    return [site for site in found if site is not None]


def _is_materialised(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the value stands for itself: it is held, or a gate looks at it."""
    record = g.record(node)
    return record.role == "local" and (record.held or _is_gated(node)) and local(gm, node).family not in VIEWS


def _is_gated(node: fx.Node) -> bool:
    places = {ops.select: 1, ops.masked: 0}  # of the value among the arguments
    return any(user.target in places and user.args[places[user.target]] is node for user in node.users)


def _site(gm: fx.GraphModule, head: fx.Node, gate: fx.Node | None) -> Site | None:
    group = Group(gm)
    group.build(head)
    core, operands = group.core, tuple(group.operands)
    parameters = bool(group.channels)
    if core is None:
        return None if gate is None else Site(head, gate, None, None, operands, 1, parameters)
    if core.family in POOLS and gate is not None:  # computed whole, held row by row
        assert group.core_node is not None
        return Site(head, gate, None, None, (group.core_node, *operands), mask_block(gate), parameters)
    if core.family != "conv":
        return None
    block = choose_block(layer_of(gm, core, head), mask_block(gate))
    return None if block is None else Site(head, gate, core, group.core_node, operands, block, parameters)


def layer_of(gm: fx.GraphModule, core: Local, head: fx.Node) -> Layer:
    """A convolution as the cost rule looks at it."""
    channels = int(g.value(core.inputs[0]).shape[1]), int(g.value(head).shape[1])
    size = int(g.value(head).shape[2]), int(g.value(head).shape[3])
    frames = [g.value(frame) for frame in g.frames(gm.graph) if g.is_map(frame)]
    tallest = max((int(frame.shape[2]) for frame in frames), default=size[0])
    grouped = core.attrs["groups"] > 1
    return Layer(channels, size, core.window, core.macs, tallest / size[0], is_planar(core.inputs[0]), grouped)


def mask_block(gate: fx.Node | None) -> int:
    """The side of the blocks in which a gate fires."""
    mask: Any = None if gate is None else gate.args[0]
    found = [n for n in (mask, *getattr(mask, "all_input_nodes", [])) if isinstance(n, fx.Node)]
    sides: dict[Any, int] = {ops.block_mask: 1, ops.fires: 2}  # which argument is the side of a block
    places: list[Any] = [n.args[sides[n.target]] for n in found if n.target in sides]
    return int(places[0]) if places else 1


def hold_test(gate: fx.Node | None) -> fx.Node | None:
    """The `changed` of a hold; None for a gate of another kind."""
    node = None if gate is None else gate.args[0]
    while isinstance(node, fx.Node) and node.target in (ops.block_mask, ops.dilate):
        node = node.args[0]
    return node if isinstance(node, fx.Node) and node.target is ops.changed else None


def is_planar(node: fx.Node) -> bool:
    """Whether a value is kept planar: a frame, which comes in planes."""
    return g.record(base(node)).role == "frame"


Kind = tuple[bool, int, int]  # whether a value is kept planar, and its height and width


def kind(node: fx.Node) -> Kind:
    """Whether a value is kept planar, and its height and width."""
    _, _, height, width = g.value(node).shape
    return is_planar(node), int(height), int(width)


def borders(gm: fx.GraphModule, sites: list[Site]) -> dict[Kind, int]:
    """How wide the zeros around maps must be for the convolutions that gather from them.

    Maps of one kind have one border, so that one table numbers their rows.
    """
    found: dict[Kind, int] = {}
    for site in sites:
        if site.core is None:
            continue
        source, window = site.core.inputs[0], site.core.window
        read = [kind(part.node) for part in runs(gm, source)] if site.fold == 1 else [folded_kind(source, site.fold)]
        needed = 0
        for axis, (out, extent) in enumerate(zip(g.value(site.head).shape[2:], read[0][1:], strict=True)):
            reach = (int(out) - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis]
            needed = max(needed, window.padding[axis], reach - window.padding[axis] - (extent - 1))
        for each in read:
            found[each] = max(found.get(each, 0), needed)
    return found


def gathered(gm: fx.GraphModule, sites: list[Site]) -> set[fx.Node]:
    """The values that sites gather from."""
    sources = [source for site in sites for source, _ in site.sources]
    return {run.node for source in sources for resized in (False, True) for run in runs(gm, source, resized=resized)}


def folded_kind(frame: fx.Node, fold: int) -> Kind:
    """The kind of a frame folded by so much: rows of cells, as many as the whole cells hold that it is compared in."""
    _, high, wide = kind(frame)
    return False, -(-high // CELL) * CELL // fold, -(-wide // CELL) * CELL // fold


@dataclass(frozen=True)
class Run:
    """A run of channels of a value that is not itself a view.

    Attributes:
        node: the value.
        start: its first channel.
        count: of channels.
        lines: rows and columns of the value, for each row and column of what is made of it, where they differ.
    """

    node: fx.Node
    start: int
    count: int
    lines: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def runs(gm: fx.GraphModule, node: fx.Node, *, resized: bool = False) -> list[Run]:
    """What a value is made of, seen through concatenations and slices.

    Args:
        gm: the graph.
        node: the value.
        resized: see through a resize that repeats lines, too.
    """
    if g.record(node).role != "local":
        return [Run(node, 0, int(g.value(node).shape[1]))]
    found, count = local(gm, node), int(g.value(node).shape[1])
    if found.family == "concat":
        return [run for part in found.inputs for run in runs(gm, part, resized=resized)]
    if found.family == "slice":
        return _cut(runs(gm, found.inputs[0], resized=resized), found.attrs["start"], count)
    if resized and found.family == "resize" and (lines := repeated_lines(found)):
        return [replace(run, lines=lines) for run in runs(gm, found.inputs[0])]
    return [Run(node, 0, count)]


def repeated_lines(found: Local) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The rows and columns that a resize repeats; None where it mixes them."""
    taps = [found.attrs["rows"], found.attrs["columns"]]
    if any(weights != [1.0] for axis in taps for _, weights in axis):
        return None
    rows, columns = (tuple(int(index[0]) for index, _ in axis) for axis in taps)
    return rows, columns


def _cut(whole: list[Run], start: int, count: int) -> list[Run]:
    found, position = [], 0
    for run in whole:
        low, high = max(start, position), min(start + count, position + run.count)
        if low < high:
            found.append(replace(run, start=run.start + low - position, count=high - low))
        position += run.count
    return found
