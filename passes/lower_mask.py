"""The masks of DynConv as an engine runs them: maps of 1.0 and 0.0, and a value in two steps, inside and outside.

Inside, a masked value is computed where what it reads changed, or the mask opened; outside it is 0, and needs computing
only where the mask shut or another operand changed. A refresh does not open masks.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.expr import const
from skipfx.passes.lower_layout import Layout, reader_taps
from skipfx.plan import Compute, Gate, Source


@dataclass(frozen=True)
class Masks:
    """The masks of a graph.

    Attributes:
        nodes: the masks themselves, decided or dilated.
        heads: for each value that holds a masked one, the nodes that mask it, all with one mask.
    """

    nodes: set[fx.Node] = field(default_factory=set)
    heads: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)


def find_masks(graph: fx.Graph) -> Masks:
    """The masks of a stream graph."""
    found = Masks()
    for node in graph.find_nodes(op="call_function", target=ops.masked):
        head = node
        while not g.record(head).held:
            head = next(user for user in head.users if g.record(user).role in ("local", "gate"))
        found.heads.setdefault(head, []).append(node)
        mask = node.args[1]
        while isinstance(mask, fx.Node) and mask.target in (ops.covered, ops.fires):
            found.nodes.add(mask)
            mask = mask.args[0]
    return found


def covered_step(layout: Layout, node: fx.Node, name: str) -> Compute:
    """The step of a dilated mask: 1 where any open position reads."""
    mask, size, *window = node.args
    args: Any = window
    source, out = layout.views[mask], layout.views[node]  # type: ignore[index]
    taps, weights = reader_taps(Source(source.maps, "window", *args), size, layout.size(source))  # type: ignore[arg-type]
    return Compute(
        name, "resize", source, (), ("gt", ("input", 0), const(0)), (), out, out.maps[0], Gate(), (taps,), size,  # type: ignore[arg-type]
        window=taps, taps=weights,
    )  # fmt: skip
