"""Pooling over a window. Windows are clipped to the picture: padding never wins a maximum."""

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.rules.common import Local, Refuse, Window, pair, rule

aten = torch.ops.aten


@rule(aten.max_pool2d.default)
def max_pool2d(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Maximum over the window, ceil mode included."""
    return Local("max_pool", (node.args[0],), _window(node))  # type: ignore[arg-type]


@rule(aten.avg_pool2d.default)
def avg_pool2d(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Mean over the window, with or without the padding counted."""
    args = g.arguments(node)
    if args["divisor_override"] is not None:
        raise Refuse("average pooling with a divisor of its own")
    window = _window(node)
    if args["ceil_mode"] and args["count_include_pad"] and _overhangs(node, window):
        raise Refuse("average pooling whose last window hangs over the padding (ceil_mode)")
    return Local("avg_pool", (args["self"],), window, attrs={"count_pad": bool(args["count_include_pad"])})


def _window(node: fx.Node) -> Window:
    args = g.arguments(node)
    kernel = pair(args["kernel_size"])
    stride = pair(args["stride"]) if args["stride"] else kernel
    return Window(kernel, stride, pair(args["padding"]), pair(args.get("dilation", 1)))


def _overhangs(node: fx.Node, window: Window) -> bool:
    before, after = g.value(node.args[0]).shape[2:], g.value(node).shape[2:]  # type: ignore[arg-type]
    return any(
        (after[axis] - 1) * window.stride[axis] + window.kernel[axis] > before[axis] + 2 * window.padding[axis]
        for axis in (0, 1)
    )
