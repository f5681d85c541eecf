"""Puts a learned mask on every residual block (DynConv, CVPR 2020): where it is shut, the block is its shortcut.

    logit = a * x + b                      a 1x1 convolution; or, with squeeze, 3x3 plus a linear layer on mean(x)
    out = shortcut + m . branch(x)         m = logit > 0; `skipfx.training.gates` says what it does in training

A convolution inside the branch is needed where the convolutions behind it read: the mask, dilated by their windows.
Elsewhere it is set to 0, so that every value of the graph has one meaning, whatever an engine leaves out.

Untrained, a = 0 and b = OPEN: every block runs everywhere, so training starts from the dense model's output.
"""

from dataclasses import dataclass

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import NothingToTransform
from skipfx.options import DynConv, Gate
from skipfx.passes.base import Pass
from skipfx.passes.gate_convolutions import add_gate_parameter
from skipfx.passes.gates.gumbel import OPEN
from skipfx.passes.residual_blocks import Block, find_blocks
from skipfx.passes.rules import local
from skipfx.spec import Stage

aten = torch.ops.aten
WHOLE = "the mask unit looks at the whole picture"


@dataclass(frozen=True)
class MaskBlocks(Pass):
    """Inserts mask units, and masks on the convolutions of the branches.

    Attributes:
        gate: the pass does nothing for other gates than DynConv.
    """

    gate: Gate

    name = "mask_blocks"
    stage = Stage.CLASSIFIED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        if not isinstance(self.gate, DynConv):
            return False
        blocks = find_blocks(gm)
        if not blocks:
            raise NothingToTransform(
                "the model has no residual block that DynConv could mask: an addition of a value, or its projection, "
                "and of a branch of convolutions that reads nothing but that value"
            )
        for block in blocks:
            _mask(gm, block, _mask_unit(gm, block, self.gate.squeeze))
        return True


def _mask_unit(gm: fx.GraphModule, block: Block, squeeze: bool) -> fx.Node:
    """Inserts what decides, behind the value that the block reads."""
    graph, x, like = gm.graph, block.source, block.add
    channels = g.value(x).shape[1]
    size = 3 if squeeze else 1
    after = x.next if x.op != "placeholder" else next(node for node in graph.nodes if node.op == "call_function")
    with graph.inserting_before(after):
        weight = add_gate_parameter(gm, "mask_weight", torch.zeros(1, channels, size, size), like)
        bias = add_gate_parameter(gm, "mask_bias", torch.full((1,), OPEN), like)
        args = (x, weight, None, list(block.stride), [size // 2, size // 2])
        score = g.insert(graph, aten.conv2d.default, args, like, "local")
        if squeeze:
            vector = add_gate_parameter(gm, "mask_squeeze", torch.zeros(1, channels, 1, 1), like)
            mean = _island(g.insert(graph, aten.mean.dim, (x, [2, 3], True), like))
            offset = _island(g.insert(graph, aten.conv2d.default, (mean, vector), like))
            score = g.insert(graph, aten.add.Tensor, (score, offset), like, "local")
        mask = g.insert(graph, ops.fires, (score, bias, 1), like)
    _, _, height, width = g.value(mask).shape
    g.record(mask).cost = channels * size * size * height * width + (channels if squeeze else 0)
    g.record(mask).decides = tuple(
        g.Decision(local(gm, conv).macs, (g.value(conv).shape[2], g.value(conv).shape[3]), readers)
        for conv, readers in block.convs
    )
    return mask


def _island(node: fx.Node) -> fx.Node:
    g.record(node).role, g.record(node).reason = "island", WHOLE
    return node


def _mask(gm: fx.GraphModule, block: Block, mask: fx.Node) -> None:
    """Masks every convolution of the branch where it is needed, and the branch's end if that is no convolution."""
    needed: dict[tuple[g.Reader, ...], fx.Node] = {(): mask}
    for conv, readers in block.convs:
        for end in range(1, len(readers) + 1):
            before = needed[readers[: end - 1]]
            if readers[:end] not in needed:
                with gm.graph.inserting_after(before):
                    needed[readers[:end]] = g.insert(gm.graph, ops.covered, (before, *readers[end - 1]), block.add)
        _insert_mask(gm.graph, conv, needed[readers])
    if block.branch not in [conv for conv, _ in block.convs]:
        _insert_mask(gm.graph, block.branch, mask)


def _insert_mask(graph: fx.Graph, node: fx.Node, mask: fx.Node) -> None:
    users = list(node.users)
    with graph.inserting_after(node):
        held = g.insert(graph, ops.masked, (node, mask), node)
    g.record(held).held, g.record(node).held = g.record(node).held, False
    g.record(held).scale = g.record(node).scale
    for user in users:
        user.replace_input_with(node, held)
