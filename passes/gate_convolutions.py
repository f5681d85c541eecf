"""What the gates of Skip-Convolutions (CVPR 2021, section 3.2) share: a score of the residual, and what fires on it.

    z = B ? update : z_former,   B = fires(score(r))

reference = "previous": r_t = x_t - x_{t-1}, as in the paper. What does not fire is lost to the position for good.

reference = "held": r_t = x_t - h_{t-1}, and the reference h moves to x_t at the input positions that a fired output
reads. An output that did not fire has then missed part of the move; its carry c adds up what it missed, and the gate
sees score(r) + c. For a norm, by the triangle inequality, that is at least the score of x_t against the input that the
output was last computed from.
"""

from collections.abc import Callable

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import OptionError
from skipfx.options import TransformOptions
from skipfx.passes.rules.common import Pair, pair
from skipfx.passes.to_residual import Residual

aten = torch.ops.aten
OnMap = Callable[[fx.Node], fx.Node]
GATE_PARAMETERS = ("gate_weight", "gate_bias", "mask_weight", "mask_bias", "mask_squeeze")


def refuse_residual_sums(options: TransformOptions, reference: str) -> None:
    """Refuses sums of residuals against a held reference.

    Raises:
        OptionError: update="residual" with reference="held".
    """
    if options.update == "residual" and reference == "held":
        raise OptionError(
            "update='residual' adds up differences to the previous frame; against a held reference, which has one "
            "value for all the outputs that read it, some would count a change twice and others never. "
            "Use update='recompute', or reference='previous'."
        )


def geometry(gm: fx.GraphModule, conv: fx.Node) -> tuple[Pair, Pair, Pair, Pair]:
    """Kernel, stride, padding and dilation of a convolution on its very input, which may have a border already."""
    args = g.arguments(conv)
    weight = g.parameter(gm, args["weight"])
    assert weight is not None
    return (pair(weight.shape[2:]), pair(args["stride"]), pair(args["padding"]), pair(args["dilation"]))


def add_gate_parameter(gm: fx.GraphModule, name: str, tensor: torch.Tensor, like: fx.Node) -> fx.Node:
    """A trainable parameter of a gate, on the device of the network, and the node that reads it."""
    assert name in GATE_PARAMETERS
    device = next((value.device for value in gm.state_dict().values()), tensor.device)
    return g.add_parameter(gm, f"{g.record(like).layer}_{name}", tensor.to(device).requires_grad_(), like)


def is_gate_parameter(name: str) -> bool:
    """Whether a parameter of that name is one of a gate, and not one of the network."""
    return name.rstrip("_").endswith(GATE_PARAMETERS)


def gate_convolution(gm: fx.GraphModule, conv: Residual, reference: str, score: OnMap, fires: OnMap) -> None:
    """Puts a gate on a convolution in residual form.

    Args:
        gm: the graph.
        conv: the convolution.
        reference: "held" or "previous".
        score: inserts the score of a residual, homogeneous in it, at every output position.
        fires: inserts the mask of a score.
    """
    graph = gm.graph
    users = [user for user in conv.update.users if user.op != "output"]
    with graph.inserting_before(conv.update.next):
        total = found = score(conv.residual)
        if reference == "held":
            carry = g.add_state(graph, found)
            total = g.insert(graph, aten.add.Tensor, (found, carry), conv.fresh)
        mask = fires(total)
        selected = g.insert(graph, ops.select, (mask, conv.update, conv.former, g.refresh(graph)), conv.fresh)
        for user in (*users, graph.output_node()):
            user.replace_input_with(conv.update, selected)
        if reference == "held":
            _keep_reference(graph, conv, geometry(gm, conv.fresh), mask, carry, score)
    g.record(selected).held, g.record(conv.update).held = g.record(conv.update).held, False


def _keep_reference(
    graph: fx.Graph, conv: Residual, shape: tuple[Pair, ...], mask: fx.Node, carry: fx.Node, score: OnMap
) -> None:
    """Moves the reference where a fired output reads, and charges the move to the outputs that did not fire."""
    refresh, source = g.refresh(graph), conv.residual.args[0]
    assert isinstance(source, fx.Node)
    size = tuple(g.value(source).shape[2:])
    read = g.insert(graph, ops.covered, (mask, size, *shape), conv.fresh)
    reference = g.insert(graph, ops.select, (read, source, conv.reference, refresh), conv.fresh)
    moved = g.insert(graph, aten.sub.Tensor, (reference, conv.reference), conv.fresh)
    total = g.insert(graph, aten.add.Tensor, (carry, score(moved)), conv.fresh)
    zero = g.insert(graph, aten.zeros_like.default, (carry,), conv.fresh)
    left = g.insert(graph, ops.select, (mask, zero, total, refresh), conv.fresh)
    g.set_following(graph, conv.reference, reference)
    g.set_following(graph, carry, left)
