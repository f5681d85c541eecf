"""A value as a step: where its core reads, its operands, its arithmetic, and what makes a position active."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.lower_group import Group
from skipfx.passes.lower_layout import Layout, base
from skipfx.passes.rules import Local
from skipfx.plan import Compute, Floats, Gate, Pair, Source, View


def gate_of(node: fx.Node) -> Gate:
    """The hold test on a value; threshold 0 where there is none."""
    for user in node.users:
        if user.target is ops.changed and user.args[0] is node:
            dilated = [after for after in user.users if after.target is ops.dilate]
            size = dilated[0].args[1] if dilated else 1
            return Gate(float(user.args[2]), user.args[3], size)  # type: ignore[arg-type]
    return Gate()


def layer_name(node: fx.Node) -> str:
    """How reports call what a node computes."""
    layer = g.record(node).layer
    return f"{layer} mask".strip() if node.target in (ops.fires, ops.covered) else layer or node.name


def compute_step(layout: Layout, node: fx.Node, gates: Mapping[fx.Node, fx.Node | None] | None = None) -> Compute:
    """The step that writes a value.

    Args:
        layout: knows where values lie; borders get as wide as windows need.
        node: the value.
        gates: as `Group` takes them.
    """
    group = Group(layout.gm, gates)
    expr = group.build(node)
    core = group.core
    out = layout.views[node]
    size: Pair = tuple(g.value(node).shape[2:])  # type: ignore[assignment]
    operands = tuple(operand(layout, source) for source in group.operands)
    window = None if core is None else _window(layout, core, size)
    active = [] if window is None else [window]
    for source, place in zip(group.operands, operands, strict=True):
        if isinstance(place, View):
            active.append(_operand_source(place, tuple(g.value(source).shape[2:]), size))
    named = node if node.target is ops.fires or group.core_node is None else group.core_node
    step = Compute(
        layer_name(named), "none", None, operands, expr, tuple(group.channels), out, out.maps[0], gate_of(node),
        tuple(dict.fromkeys(active)), size, window=window,
    )  # fmt: skip
    return step if core is None else _with_core(layout, step, core)


def operand(layout: Layout, node: fx.Node) -> View | Floats:
    """Where an operand lies, or the values of a constant."""
    tensor = g.parameter(layout.gm, node)
    if tensor is None:
        return layout.views[base(node)]
    return tensor.detach()[0].movedim(0, -1).contiguous().numpy()


def _window(layout: Layout, core: Local, size: Pair) -> Source:
    """Where a core reads; a change there makes a position active."""
    view = layout.views[base(core.inputs[0])]
    if core.attrs.get("turned"):
        return Source(view.maps, "whole")
    if core.family in ("resize", "move"):
        rows, columns = (tuple(tuple(map(int, t[0])) for t in core.attrs[axis]) for axis in ("rows", "columns"))
        return Source(view.maps, "taps", rows=rows, columns=columns)
    found = core.window
    source = Source(view.maps, "window", found.kernel, found.stride, found.padding, found.dilation)
    layout.reach(view, source, size)
    return source


def _operand_source(view: View, own_size: tuple[int, ...], size: Pair) -> Source:
    """Where a change of an operand shows: at its own position, along its line, or everywhere."""
    if own_size == size:
        return Source(view.maps)
    if own_size == (1, 1):
        return Source(view.maps, "whole")
    rows, columns = (
        tuple((line if own == full else 0,) for line in range(full)) for own, full in zip(own_size, size, strict=True)
    )
    return Source(view.maps, "taps", rows=rows, columns=columns)


def _with_core(layout: Layout, step: Compute, core: Local) -> Compute:
    view = layout.views[base(core.inputs[0])]
    if core.family == "conv":
        return _weights(layout, step, core, view)
    if core.family == "resize":
        taps = tuple(np.array([t[1] for t in core.attrs[axis]], np.float32) for axis in ("rows", "columns"))
        return replace(step, core="resize", source=view, taps=taps)
    if core.family in ("move", "reduce"):
        name, tables = core.attrs.get("kind", core.family), core.attrs.get("tables", ())
        return replace(step, core=name, source=view, tables=tables, number=core.attrs["number"])
    return replace(step, core=core.family, source=view, count_pad=core.attrs.get("count_pad", True))  # type: ignore[arg-type]


def _weights(layout: Layout, step: Compute, core: Local, source: View) -> Compute:
    """The step with the weights of its convolution."""
    args = g.arguments(core.attrs["node"])
    weight, bias = g.parameter(layout.gm, args["weight"]), g.parameter(layout.gm, args["bias"])
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
