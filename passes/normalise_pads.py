"""Gives padding one form: numbers of the operator, or a border that its window takes in.

1. `conv2d(padding="same")` becomes numbers, with a separate pad where the two sides differ.
2. Every convolution or pool takes the constant pad before it as its own: as numbers where a convolution has equal zeros
   on both sides, else as `ops.border`, which costs nothing (TensorFlow's "same" is uneven at stride 2). Zeros are a
   border of convolutions and of averages that count them, -inf of maxima.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.base import Pass
from skipfx.passes.remove_identity import PADS
from skipfx.spec import Stage

aten = torch.ops.aten
# what a border may hold, by the operator that takes it in
BORDER: dict[Any, float] = {
    aten.conv2d.default: 0,
    aten.avg_pool2d.default: 0,
    aten.max_pool2d.default: -math.inf,
}


@dataclass(frozen=True)
class NormalisePads(Pass):
    """Moves padding into convolutions and pools."""

    name = "normalise_pads"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for found in list(gm.graph.nodes):
            node = found
            if node.target is aten.conv2d.padding:
                node = _spell_out(gm, node)
                modified = True
            if node.target in BORDER:
                modified |= _absorb(gm, node)
        return modified


def _spell_out(gm: fx.GraphModule, conv: fx.Node) -> fx.Node:
    args = g.arguments(conv)
    kernel = g.value(args["weight"]).shape[2:]
    spread = (
        [0, 0] if args["padding"] == "valid" else [d * (k - 1) for d, k in zip(args["dilation"], kernel, strict=True)]
    )
    source: fx.Node = args["input"]
    if any(total % 2 for total in spread):
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in spread)
        with gm.graph.inserting_before(conv):
            source = g.insert(
                gm.graph, aten.constant_pad_nd.default, (source, [left, right, top, bottom], 0.0), conv, "unknown"
            )
        spread = [0, 0]
    with gm.graph.inserting_before(conv):
        plain = g.insert(
            gm.graph,
            aten.conv2d.default,
            (
                source,
                args["weight"],
                args["bias"],
                args["stride"],
                [s // 2 for s in spread],
                args["dilation"],
                args["groups"],
            ),
            conv,
            "unknown",
        )
    conv.replace_all_uses_with(plain)
    gm.graph.erase_node(conv)
    return plain


def _absorb(gm: fx.GraphModule, reader: fx.Node) -> bool:
    """Makes the pad that a window reads its own."""
    pad = reader.args[0]
    if not isinstance(pad, fx.Node) or pad.target not in PADS:
        return False
    given: dict[str, Any] = g.arguments(pad)
    sides = [*given["pad"], 0, 0][:4]
    value = given["value"] or 0
    plain = given.get("mode", "constant") == "constant" and len(given["pad"]) <= 4 and min(sides) >= 0
    if not plain or value != BORDER[reader.target] or not _counts_the_pad(gm, reader):
        return False
    left, right, top, bottom = sides
    args = g.arguments(reader)
    if reader.target is aten.conv2d.default and left == right and top == bottom and len(pad.users) == 1:
        padding = [args["padding"][0] + top, args["padding"][1] + left]
        geometry = (args["stride"], padding, args["dilation"], args["groups"])
        reader.args = (given["self"], args["weight"], args["bias"], *geometry)
        reader.kwargs = {}
        return True
    with gm.graph.inserting_before(reader):
        border = g.insert(gm.graph, ops.border, (given["self"], tuple(sides), value), reader, "unknown")
    reader.replace_input_with(pad, border)
    return True


def _counts_the_pad(gm: fx.GraphModule, reader: fx.Node) -> bool:
    """Whether the zeros mean to the reader what they mean in the pad."""
    args = g.arguments(reader)
    if reader.target is aten.conv2d.default:
        return g.parameter(gm, args["weight"]) is not None
    if reader.target is aten.avg_pool2d.default:
        own = [args["padding"]] if isinstance(args["padding"], int) else args["padding"]
        return not any(own) or bool(args["count_include_pad"])
    return True
