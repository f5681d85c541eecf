"""The gates of Skip-Convolutions as an engine runs them: scores, blocks that open, a reference that moves.

    w[t] = sum of a[t] |x - reference|      for every tap t, where x changed
    score = carry + sum of w over the taps  where the window holds a change of x; elsewhere it is what it was
    open                                    blocks that hold a new score and any above the limit; their scores become 0
    the convolution                         at the open positions
    reference = x, w = 0                    where an open position reads
    carry = score - sum of w over the taps  where the reference moved in the window: what the output missed of the moves

So channels are read once per change of x, however many windows see it.

A score does not change when the reference moves: what |x - reference| loses the carry gains. So a block that holds no
new score is as it was: it stays shut, or what it would compute it has computed. (With p = 2 that is not so.)
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import CompileError
from skipfx.passes.lower_layout import Layout
from skipfx.passes.rules import local
from skipfx.plan import Compute, Floats, Follow, Open, Pair, Score, Source, Step, Weigh

aten = torch.ops.aten


@dataclass(frozen=True)
class ConvGate:
    """A gate on a convolution.

    Attributes:
        conv, select: the convolution, and the node that chooses between its new and its former value.
        weight: a, [1, C, kh, kw].
        limit: what a score must exceed, strictly.
        block: side of the blocks.
        carries: whether the reference is held; else it is the input of the frame before.
    """

    conv: fx.Node
    select: fx.Node
    weight: Floats
    limit: float
    block: int
    carries: bool


def refuse_unlowered(graph: fx.Graph) -> None:
    """Refuses what runs in PyTorch only.

    Raises:
        CompileError: residual sums, hold gates with blocks, or a norm gate with p = 2.
    """
    for node in graph.nodes:
        if g.record(node).role != "gate":
            continue
        if node.target is aten.where.self:
            raise CompileError("residual sums run in PyTorch, or exported (skipfx export): compile update='recompute'")
        if node.target is ops.block_mask and node.args[0].target in (ops.changed, ops.dilate):
            raise CompileError("hold gates with blocks run in PyTorch: compile block=1, which a CPU prefers")
        if node.target is ops.window_norm and node.args[-1] != 1:
            raise CompileError("norm gates with p=2 run in PyTorch, or exported (skipfx export): compile p=1")


def conv_gates(gm: fx.GraphModule) -> dict[fx.Node, ConvGate]:
    """The gates on convolutions, by the value that is written: the convolution, or what it alone decides on.

    Raises:
        CompileError: a gate would open without a change, and compares with the frame before.
    """
    found: dict[fx.Node, ConvGate] = {}
    for select in gm.graph.find_nodes(op="call_function", target=ops.select):
        mask, conv, *_ = select.args
        if g.record(conv).role == "local" and mask.target not in (ops.changed, ops.dilate, ops.covered):
            gate = _read(gm, select, conv, mask)
            if gate.limit < 0 and not gate.carries:
                raise CompileError(
                    f"{g.record(conv).layer or conv.name}: its gate is open where nothing changed, and with "
                    "reference='previous' that runs in PyTorch only: train it for longer, or with reference='held'"
                )
            found[_written(gm, select)] = gate
    return found


def _read(gm: fx.GraphModule, select: fx.Node, conv: fx.Node, mask: fx.Node) -> ConvGate:
    pooled: Any = mask.args if mask.target is ops.block_mask else (mask, 1)
    decision, block = pooled
    if decision.target is ops.fires:
        total, bias, block = decision.args
        limit = -g.parameter(gm, bias).item()  # type: ignore[union-attr]
    else:
        total, limit = decision.args
    carries = total.target is aten.add.Tensor
    weight = _weight(gm, total.args[0] if carries else total, int(g.value(local(gm, conv).inputs[0]).shape[1]))
    return ConvGate(conv, select, weight, limit, block, carries)


def _weight(gm: fx.GraphModule, score: fx.Node, channels: int) -> Floats:
    args: Any = score.args
    if score.target is aten.conv2d.default:
        weight = g.parameter(gm, args[1])
        assert weight is not None
        found: Floats = weight.detach().float().numpy()
        return found
    if score.target is aten.mul.Tensor:
        return _weight(gm, args[0], channels) * np.float32(args[1])
    assert score.target is ops.window_norm
    kernel: Pair = args[1]
    return np.full((1, channels, *kernel), 1 / (channels * kernel[0] * kernel[1]), np.float32)


def _written(gm: fx.GraphModule, select: fx.Node) -> fx.Node:
    """The end of the pointwise operators that the gated convolution alone decides on, or the convolution."""
    node = select
    while not g.record(node).held:
        node = next(user for user in node.users if g.record(user).role == "local")
        if len(set(local(gm, node).inputs)) > 1:
            return select.args[1]  # type: ignore[return-value]
    return select.args[1] if node is select else node  # type: ignore[return-value]


def gate_steps(layout: Layout, gate: ConvGate, conv: Compute) -> list[Step]:
    """The steps of a gated convolution.

    Args:
        layout: gets the maps that the gate keeps.
        gate: on the convolution.
        conv: its step, as it were without the gate.
    """
    source, window = conv.source, conv.window
    assert source is not None and window is not None
    name, size = f"{conv.name} gate", layout.size(source)
    reference = layout.add(*size, source.channels)
    weighed = layout.add(*size, gate.weight[0, 0].size)
    scores, carry = layout.add(*conv.size, 1), layout.add(*conv.size, 1)
    opened = layout.add_map(scores.buffer)
    layout.reach(weighed, window, conv.size)
    changed = Source(source.maps)
    moved = layout.readers(replace(scores, maps=(opened,)), window, size) if gate.carries else changed
    steps: list[Step] = [
        Weigh(name, source, reference, weighed, gate.weight, (changed,), size),
        Score(name, weighed, window, carry, 1, scores, scores.maps[0], (window,), conv.size),
        Open(name, scores, opened, gate.limit, gate.block),
        replace(conv, active=(Source((opened,)),)),
        Follow(name, source, reference, reference.maps[0], weighed, (moved,), size),
    ]
    if gate.carries:
        missed = replace(window, maps=reference.maps)
        steps.append(Score(name, weighed, window, scores, -1, carry, carry.maps[0], (missed,), conv.size))
    return steps
