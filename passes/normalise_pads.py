"""Gives every convolution one form: explicit symmetric padding, no separate zero pad before it.

1. `conv2d(padding="same")` becomes numbers, with a separate pad where the two sides differ.
2. A zero `pad` whose only consumer is a convolution moves into the convolution where both sides are equal.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.passes.remove_identity import PADS
from skipfx.spec import Stage

aten = torch.ops.aten


@dataclass(frozen=True)
class NormalisePads(Pass):
    """Moves padding into convolutions."""

    name = "normalise_pads"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.target is aten.conv2d.padding:
                modified |= _spell_out(gm, node)
            if node.target is aten.conv2d.default:
                modified |= _absorb(node)
        return modified


def _spell_out(gm: fx.GraphModule, conv: fx.Node) -> bool:
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
    return True


def _absorb(conv: fx.Node) -> bool:
    args = g.arguments(conv)
    pad = args["input"]
    if pad.target not in PADS or len(pad.users) != 1:
        return False
    given: dict[str, Any] = g.arguments(pad)
    sides = [*given["pad"], 0, 0][:4]
    if given.get("mode", "constant") != "constant" or (given["value"] or 0) != 0 or len(given["pad"]) > 4:
        return False
    left, right, top, bottom = sides
    if left != right or top != bottom or min(sides) < 0:
        return False
    padding = [args["padding"][0] + top, args["padding"][1] + left]
    conv.args = (given["self"], args["weight"], args["bias"], args["stride"], padding, args["dilation"], args["groups"])
    conv.kwargs = {}
    return True
