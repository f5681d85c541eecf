"""Finds what can be gathered in a stream graph: held values, convolutions behind a gate or mask, and unread outputs.

A site is a materialised value (a core or none, and the pointwise operators behind it, as `fuse_chains` grouped them)
with the gate that decides what of it is written. Everything else is computed whole, as it stands in the stream graph.
"""

from dataclasses import dataclass
from typing import Any

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.lower_group import Group
from skipfx.passes.lower_layout import base
from skipfx.passes.portable.cost import Layer, choose_block
from skipfx.passes.rules import Local, local
from skipfx.passes.rules.common import VIEWS


@dataclass(frozen=True)
class Site:
    """A value that is computed where it may have changed.

    Attributes:
        head: the value.
        gate: the `select` that holds it, or the `masked` that cuts it out; None for an output that nothing reads.
        core: the convolution, if there is one, and its node.
        core_node: see `core`.
        operands: values that the pointwise operators read at the position itself.
        block: side of the blocks in which it is gathered.
        has_parameters: the pointwise operators read parameters per channel.
    """

    head: fx.Node
    gate: fx.Node | None
    core: Local | None
    core_node: fx.Node | None
    operands: tuple[fx.Node, ...]
    block: int
    has_parameters: bool = False

    @property
    def seen(self) -> fx.Node:
        """The node whose value the others see."""
        return self.gate or self.head


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
            found += [Site(node, gate, None, None, (), 1) for gate in own]
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
    if core.family != "conv":
        return None
    block = choose_block(_layer(gm, core, head), mask_block(gate))
    return None if block is None else Site(head, gate, core, group.core_node, operands, block, parameters)


def _layer(gm: fx.GraphModule, core: Local, head: fx.Node) -> Layer:
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


def is_planar(node: fx.Node) -> bool:
    """Whether a value is kept planar: a frame, which comes in planes."""
    return g.record(base(node)).role == "frame"


def borders(gm: fx.GraphModule, sites: list[Site]) -> dict[fx.Node, int]:
    """How wide the zeros around each value must be for the convolutions that gather from it."""
    found: dict[fx.Node, int] = {}
    for site in sites:
        if site.core is None:
            continue
        source, window = site.core.inputs[0], site.core.window
        needed = 0
        for axis, (out, extent) in enumerate(zip(g.value(site.head).shape[2:], g.value(source).shape[2:], strict=True)):
            reach = (out - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis]
            needed = max(needed, window.padding[axis], reach - window.padding[axis] - (extent - 1))
        for part in runs(gm, source):
            found[part.node] = max(found.get(part.node, 0), int(needed))
    return found


@dataclass(frozen=True)
class Run:
    """A run of channels of a value that is not itself a view."""

    node: fx.Node
    start: int
    count: int


def runs(gm: fx.GraphModule, node: fx.Node) -> list[Run]:
    """What a value is made of, seen through concatenations and slices."""
    family = local(gm, node).family if g.record(node).role == "local" else ""
    if family == "concat":
        return [run for part in local(gm, node).inputs for run in runs(gm, part)]
    count = int(g.value(node).shape[1])
    if family != "slice":
        return [Run(node, 0, count)]
    found = local(gm, node)
    return _cut(runs(gm, found.inputs[0]), found.attrs["start"], count)


def _cut(whole: list[Run], start: int, count: int) -> list[Run]:
    found, position = [], 0
    for run in whole:
        low, high = max(start, position), min(start + count, position + run.count)
        if low < high:
            found.append(Run(run.node, run.start + low - position, high - low))
        position += run.count
    return found
