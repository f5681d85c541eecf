"""Turns transposed convolutions into convolutions, so that only what changed is gathered.

Output o = q s + r of a transposed convolution with stride s reads the inputs q - t through the taps r + s t, so the
s x s phases r of an output are s x s times as many channels of one convolution over q, with ceil(k / s) taps; a pixel
shuffle puts them in their places, and a crop takes off the padding (Shi et al., 2016, section 3.2). Where s does not
divide k some taps are zero: the convolution counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.passes.rules.common import Pair, pair
from skipfx.spec import Stage

aten = torch.ops.aten
TRANSPOSED = {aten.conv_transpose2d.input}


@dataclass(frozen=True)
class NormaliseTransposed(Pass):
    """conv_transpose2d becomes conv2d, pixel shuffle and crop."""

    name = "normalise_transposed"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.target not in TRANSPOSED or not g.is_map(node):
                continue
            with gm.graph.inserting_before(node):
                plain = _rewritten(gm, node)
            if plain is not None:
                node.replace_all_uses_with(plain)
                gm.graph.erase_node(node)
                modified = True
        return modified


def _rewritten(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    args = g.arguments(node)
    weight, bias = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    stride, padding = pair(args["stride"]), pair(args["padding"])
    if weight is None or (args["bias"] is not None and bias is None):
        return None
    layer, size = g.record(node).layer, tuple(g.value(node).shape[2:])
    before = g.value(args["input"]).shape[2:]
    reach = [-(-(end + p) // s) - n + 1 for end, p, s, n in zip(size, padding, stride, before, strict=True)]
    kernel = _phases(weight, args["groups"], stride, pair(args["dilation"]), reach)
    parameter = g.add_parameter(gm, f"{layer}_phases", kernel, args["weight"])
    spread = None
    if bias is not None:
        repeated = bias.repeat_interleave(stride[0] * stride[1])
        spread = g.add_parameter(gm, f"{layer}_phases_bias", repeated, args["bias"])
    taps = [taps - 1 for taps in kernel.shape[2:]]
    conv: Any = (args["input"], parameter, spread, [1, 1], taps, [1, 1], args["groups"])
    result = g.insert(gm.graph, aten.conv2d.default, conv, node, "unknown")
    if stride != (1, 1):
        result = _shuffled(gm.graph, result, stride, node)
    for axis in (0, 1):
        if padding[axis] or g.value(result).shape[2 + axis] != size[axis]:
            crop = (result, 2 + axis, padding[axis], padding[axis] + size[axis])
            result = g.insert(gm.graph, aten.slice.Tensor, crop, node, "unknown")
    return result


def _shuffled(graph: fx.Graph, value: fx.Node, stride: Pair, like: fx.Node) -> fx.Node:
    """[1, C sh sw, H, W] -> [1, C, H sh, W sw]."""
    _, channels, height, width = g.value(value).shape
    outputs = channels // (stride[0] * stride[1])
    apart = g.insert(graph, aten.reshape.default, (value, [outputs, *stride, height, width]), like, "unknown")
    turned = g.insert(graph, aten.permute.default, (apart, [0, 3, 1, 4, 2]), like, "unknown")
    shape = [1, outputs, height * stride[0], width * stride[1]]
    return g.insert(graph, aten.reshape.default, (turned, shape), like, "unknown")


def _phases(weight: Tensor, groups: int, stride: Pair, dilation: Pair, reach: Sequence[int]) -> Tensor:
    """[C_in, C_out / groups, kh, kw] -> [C_out sh sw, C_in / groups, th, tw], at least `reach` taps."""
    inputs, outputs, *kernel = weight.shape
    spread = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    taps = [max(-(-k // s), r) for k, s, r in zip(spread, stride, reach, strict=True)]
    dense = weight.new_zeros(inputs, outputs, *(t * s for t, s in zip(taps, stride, strict=True)))
    dense[:, :, : spread[0] : dilation[0], : spread[1] : dilation[1]] = weight
    parts = dense.view(groups, inputs // groups, outputs, taps[0], stride[0], taps[1], stride[1])
    # [group, in, out, th, sh, tw, sw] -> [group, out, sh, sw, in, th, tw]; input q - t: the taps run backwards
    turned = parts.permute(0, 2, 4, 6, 1, 3, 5).flip(5, 6)
    return turned.reshape(groups * outputs * stride[0] * stride[1], inputs // groups, *taps).contiguous()
