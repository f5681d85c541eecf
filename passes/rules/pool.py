"""Pooling over a window. Windows are clipped to the picture: padding never wins a maximum."""

from typing import Any

import numpy as np
import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.rules.common import Local, Refuse, Window, behind_border, pair, rule
from skipfx.passes.rules.resize import separable

aten = torch.ops.aten


@rule(aten.max_pool2d.default)
def max_pool2d(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Maximum over a window, ceil mode and dilation included."""
    source, window = _window(node)
    return Local("max_pool", (source,), window)


@rule(aten.avg_pool2d.default)
def avg_pool2d(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Mean over a window, with or without the padding counted, ceil mode and a divisor of its own included."""
    args = g.arguments(node)
    source, window = _window(node)
    counted = bool(args["count_include_pad"]) or source is not args["self"]
    divisor = args["divisor_override"]
    if divisor is None and not (args["ceil_mode"] and counted and _overhangs(node)):
        return Local("avg_pool", (source,), window, attrs={"count_pad": counted})
    if source is not args["self"]:
        raise Refuse("average pooling over an uneven border, with a divisor of its own or a window beyond the border")
    rows, columns = (_average(node, window, axis) for axis in (0, 1))
    if divisor is not None:
        rows, columns = rows > 0, (columns > 0) / np.float32(divisor)
    return Local("resize", (source,), attrs=separable(rows.astype(np.float32), columns.astype(np.float32)))


def _window(node: fx.Node) -> tuple[fx.Node, Window]:
    """What is pooled, and its window."""
    args = g.arguments(node)
    kernel = pair(args["kernel_size"])
    stride = pair(args["stride"]) if args["stride"] else kernel
    return behind_border(args["self"], Window(kernel, stride, pair(args["padding"]), pair(args.get("dilation", 1))))


def _sizes(node: fx.Node) -> tuple[Any, Any]:
    """Rows and columns of what the pool reads, a border included, and of what it makes."""
    return g.value(node.args[0]).shape[2:], g.value(node).shape[2:]  # type: ignore[arg-type]


def _overhangs(node: fx.Node) -> bool:
    args = g.arguments(node)
    kernel, padding = pair(args["kernel_size"]), pair(args["padding"])
    stride = pair(args["stride"]) if args["stride"] else kernel
    before, after = _sizes(node)
    return any((after[i] - 1) * stride[i] + kernel[i] > before[i] + 2 * padding[i] for i in (0, 1))


def _average(node: fx.Node, window: Window, axis: int) -> np.ndarray:
    """Weights [out, in] of a mean along one axis that counts its padding, but nothing beyond it."""
    before, after = (size[axis] for size in _sizes(node))
    matrix = np.zeros((after, before), np.float32)
    for line in range(after):
        start = line * window.stride[axis] - window.padding[axis]
        end = min(start + window.kernel[axis], before + window.padding[axis])
        matrix[line, max(start, 0) : min(end, before)] = 1 / (end - start)
    return matrix
