"""Finds residual blocks in a classified graph by their structure, whatever their author called them.

A residual block is an addition of two maps of one shape: a branch and a shortcut, both from the same value x. The
branch holds convolutions and nothing but operators that have a window, reads x alone, and is read by the addition
alone. The shortcut is x itself or its projection: one 1x1 convolution at most, with pooling and pointwise operators. Of
nested blocks the inner ones count.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.rules import local
from skipfx.passes.rules.common import POINT, Pair

aten = torch.ops.aten
WITH_WINDOWS = ("conv", "max_pool", "avg_pool", "pointwise")


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
        add: the addition.
        source: x.
        branch: the end of the branch.
        convs: the branch's convolutions, in order, each with what reads it on the way to the end.
        stride: of the branch, from x to the addition.
    """

    add: fx.Node
    source: fx.Node
    branch: fx.Node
    convs: tuple[tuple[fx.Node, tuple[g.Reader, ...]], ...]
    stride: Pair


def find_blocks(gm: fx.GraphModule) -> list[Block]:
    """The residual blocks of a classified graph, in order."""
    taken: set[fx.Node] = set()
    found = []
    for add in gm.graph.find_nodes(op="call_function", target=aten.add.Tensor):
        if g.record(add).role != "local" or len(local(gm, add).inputs) != 2:
            continue
        one, two = local(gm, add).inputs
        blocks = [block for block in (_block(gm, add, one, two, taken), _block(gm, add, two, one, taken)) if block]
        if blocks:
            best = max(blocks, key=lambda block: sum(local(gm, conv).macs for conv, _ in block.convs))
            found.append(best)
            taken |= _region(gm, best.branch, best.source) | {add}
    return found


def _block(gm: fx.GraphModule, add: fx.Node, branch: fx.Node, shortcut: fx.Node, taken: set[fx.Node]) -> Block | None:
    if g.value(branch).shape != g.value(shortcut).shape:
        return None
    for source in _origins(gm, shortcut):
        region = _region(gm, branch, source)
        if not region or region & taken or any(user not in region | {add} for node in region for user in node.users):
            continue
        readers = _readers(gm, branch, region)
        convs = [node for node in gm.graph.nodes if node in region and local(gm, node).family == "conv"]
        stride = _stride(source, add)
        if readers is not None and stride is not None and _is_branch(gm, convs):
            return Block(add, source, branch, tuple((conv, readers[conv]) for conv in convs), stride)
    return None


def _origins(gm: fx.GraphModule, shortcut: fx.Node) -> Iterator[fx.Node]:
    """What the shortcut may come from: itself, or what a projection reads."""
    node, convs = shortcut, 0
    while True:
        yield node
        if g.record(node).role != "local" or len(node.users) != 1:
            return
        found = local(gm, node)
        convs += found.family == "conv"
        if convs > 1 or len(found.inputs) != 1 or found.family not in WITH_WINDOWS:
            return
        if found.family == "conv" and found.window.kernel != (1, 1):
            return
        node = found.inputs[0]


def _region(gm: fx.GraphModule, branch: fx.Node, source: fx.Node) -> set[fx.Node]:
    """What lies between the source and the end of the branch; empty where other things come in."""
    region: set[fx.Node] = set()
    waiting = [branch]
    while waiting:
        node = waiting.pop()
        if node is source or node in region:
            continue
        if g.record(node).role != "local" or local(gm, node).family not in WITH_WINDOWS:
            return set()
        region.add(node)
        waiting += local(gm, node).inputs
    return region


def _readers(gm: fx.GraphModule, branch: fx.Node, region: set[fx.Node]) -> dict[fx.Node, tuple[g.Reader, ...]] | None:
    """For every node of the region the windows through which the end of the branch reads it; None if they differ."""
    found: dict[fx.Node, tuple[g.Reader, ...]] = {branch: ()}
    for node in reversed(list(gm.graph.nodes)):
        if node not in region:
            continue
        first, *others = local(gm, node).inputs
        window = local(gm, node).window
        size: Pair = tuple(g.value(first).shape[2:])  # type: ignore[assignment]
        through = (size, window.kernel, window.stride, window.padding, window.dilation)
        for source, step in ((first, () if window == POINT else (through,)), *((other, ()) for other in others)):
            if found.setdefault(source, (*found[node], *step)) != (*found[node], *step):
                return None
    return found


def _is_branch(gm: fx.GraphModule, convs: list[fx.Node]) -> bool:
    """Whether there is more than a projection."""
    return len(convs) > 1 or any(local(gm, conv).window.kernel != (1, 1) for conv in convs)


def _stride(source: fx.Node, add: fx.Node) -> Pair | None:
    """By how much the branch shrinks x; None where no stride gives the size of the addition."""
    steps = []
    for before, after in zip(g.value(source).shape[2:], g.value(add).shape[2:], strict=True):
        step = -(-before // after)
        if (before - 1) // step + 1 != after:
            return None
        steps.append(step)
    return (steps[0], steps[1])
