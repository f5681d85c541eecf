"""Operators that only say where values lie: they cost nothing."""

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.rules.common import Local, Refuse, rule

aten = torch.ops.aten


@rule(aten.cat.default)
def cat(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Concatenation of maps along the channels."""
    args = g.arguments(node)
    if args["dim"] % 4 != 1:
        raise Refuse("concatenation that is not along the channels")
    return Local("concat", tuple(args["tensors"]))


@rule(aten.slice.Tensor)
def slice_channels(gm: fx.GraphModule, node: fx.Node) -> Local:
    """A run of channels."""
    args = g.arguments(node)
    if args["dim"] % 4 != 1 or args["step"] != 1:
        raise Refuse("slicing that is not a run of channels")
    channels = g.value(args["self"]).shape[1]
    start = args["start"] or 0
    return Local("slice", (args["self"],), attrs={"start": start + channels if start < 0 else start})


@rule(ops.border)
def border(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Zero padding before a convolution or average, -inf before a maximum; uneven sides too."""
    return Local("border", (node.args[0],))  # type: ignore[arg-type]
