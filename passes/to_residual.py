"""Rewrites every local convolution into residual form (Skip-Convolutions, eq. 2-3).

    z_t = z_{t-1} + w * r_t,   r_t = x_t - x_{t-1},   and  z = w * x + b  on a refresh

The bias enters on a refresh alone. Two states per convolution: the former input and the former output.
"""

from dataclasses import dataclass

import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.passes.rules import local
from skipfx.spec import Stage

aten = torch.ops.aten


@dataclass(frozen=True)
class Residual:
    """The nodes of one convolution in residual form.

    Attributes:
        fresh: w * x + b.
        residual: x_t - reference.
        reference: the state that x_t is compared with.
        former: the state z_{t-1}.
        update: where(refresh, fresh, former + w * residual).
    """

    fresh: fx.Node
    residual: fx.Node
    reference: fx.Node
    former: fx.Node
    update: fx.Node


@dataclass(frozen=True)
class ToResidual(Pass):
    """conv(x) becomes where(refresh, conv(x), z_former + conv(x - x_former))."""

    name = "to_residual"
    stage = Stage.RESIDUAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        convs = [n for n in gm.graph.nodes if g.record(n).role == "local" and local(gm, n).family == "conv"]
        for conv in convs:
            _rewrite(gm.graph, conv)
        return bool(convs)


def _rewrite(graph: fx.Graph, conv: fx.Node) -> None:
    args = g.arguments(conv)
    source: fx.Node = args["input"]
    users = list(conv.users)
    with graph.inserting_after(conv):
        former = g.add_state(graph, conv)
        reference = g.add_state(graph, source)
    anchor = conv.next
    with graph.inserting_before(anchor):
        residual = g.insert(graph, aten.sub.Tensor, (source, reference), conv)
        geometry = (args["stride"], args["padding"], args["dilation"], args["groups"])
        step = g.insert(graph, aten.conv2d.default, (residual, args["weight"], None, *geometry), conv)
        total = g.insert(graph, aten.add.Tensor, (former, step), conv)
        update = g.insert(graph, aten.where.self, (g.refresh(graph), conv, total), conv)
    for user in (*users, graph.output_node()):
        user.replace_input_with(conv, update)
    g.record(update).scale = g.record(conv).scale
    g.record(update).held, g.record(conv).held = g.record(conv).held, False


def residuals(graph: fx.Graph) -> list[Residual]:
    """The convolutions in residual form, in order."""
    found = []
    for update in graph.find_nodes(op="call_function", target=aten.where.self):
        if g.record(update).role != "gate":
            continue
        _, fresh, total = update.args
        former, step = total.args
        residual = step.args[0]
        found.append(Residual(fresh, residual, residual.args[1], former, update))
    return found
