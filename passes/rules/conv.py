"""Convolutions: z[p] = bias + sum over the window of w x. Any kernel, stride, padding, dilation and groups."""

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.rules.common import Local, Refuse, Window, behind_border, pair, rule

aten = torch.ops.aten


@rule(aten.conv2d.default)
def conv2d(gm: fx.GraphModule, node: fx.Node) -> Local:
    """conv2d with constant weights."""
    args = g.arguments(node)
    weight = g.parameter(gm, args["weight"])
    if weight is None or (args["bias"] is not None and g.parameter(gm, args["bias"]) is None):
        raise Refuse("the weights of the convolution are computed from the frame")
    window = Window(pair(weight.shape[2:]), pair(args["stride"]), pair(args["padding"]), pair(args["dilation"]))
    source, window = behind_border(args["input"], window)
    return Local("conv", (source,), window, macs=weight.numel(), attrs={"groups": args["groups"], "node": node})
