"""The norm gates of Skip-Convolutions (CVPR 2021, section 3.2) on every local convolution.

    n = mean over the kernel window and the input channels of |r|^p, ^(1/p)         input_norm   (eq. 6)
    n = that times ||w||_p / C_out^(1/p), a bound in the units of the output        output_norm  (eq. 7)
    the gate fires where n > eps, strictly; z = B ? update : z_former

reference = "previous": r_t = x_t - x_{t-1}, as in the paper. What stays below eps is lost to the position for good.

reference = "held": r_t = x_t - h_{t-1}, and the reference h moves to x_t at the input positions that a fired output
reads. An output that did not fire has then missed part of the move; its carry c adds up what it missed, and it fires
where n + c > eps. By the triangle inequality the input it was last computed from is never further than eps from x_t.
"""

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import OptionError
from skipfx.options import InputNorm, NormGate, OutputNorm, TransformOptions
from skipfx.passes.rules import Window, local
from skipfx.passes.to_residual import Residual, residuals

aten = torch.ops.aten


def insert_norm(gm: fx.GraphModule, options: TransformOptions, input_threshold: float) -> bool:
    """Puts a norm gate on every convolution in residual form.

    Raises:
        OptionError: update="residual" with reference="held".
    """
    gate = options.gate
    assert isinstance(gate, InputNorm | OutputNorm)
    if options.update == "residual" and gate.reference == "held":
        raise OptionError(
            "update='residual' adds up differences to the previous frame; against a held reference, which has one "
            "value for all the outputs that read it, some would count a change twice and others never. "
            "Use update='recompute', or reference='previous'."
        )
    found = residuals(gm.graph)
    for conv in found:
        eps = gate.eps
        for pattern, override in options.thresholds.items():
            if g.matches(g.record(conv.fresh).layer, pattern):
                eps = override
        _gate(gm, conv, gate, eps)
    return bool(found)


def _gate(gm: fx.GraphModule, conv: Residual, gate: NormGate, eps: float) -> None:
    graph, window = gm.graph, local(gm, conv.fresh).window
    users = [user for user in conv.update.users if user.op != "output"]
    geometry = (window.kernel, window.stride, window.padding, window.dilation)
    with graph.inserting_before(conv.update.next):
        norm = g.insert(graph, ops.window_norm, (conv.residual, *geometry, gate.p), conv.fresh)
        factor = _output_factor(gm, conv.fresh, gate.p) if isinstance(gate, OutputNorm) else 1.0
        if factor != 1.0:
            norm = g.insert(graph, aten.mul.Tensor, (norm, factor), conv.fresh)
        total = norm
        if gate.reference == "held":
            carry = g.add_state(graph, norm)
            total = g.insert(graph, aten.add.Tensor, (norm, carry), conv.fresh)
        mask = g.insert(graph, aten.gt.Scalar, (total, eps), conv.fresh)
        selected = g.insert(graph, ops.select, (mask, conv.update, conv.former, g.refresh(graph)), conv.fresh)
        for user in (*users, graph.output_node()):
            user.replace_input_with(conv.update, selected)
        if gate.reference == "held":
            _keep_reference(graph, conv, window, mask, carry, factor, gate.p)
    g.record(selected).held, g.record(conv.update).held = g.record(conv.update).held, False


def _keep_reference(
    graph: fx.Graph, conv: Residual, window: Window, mask: fx.Node, carry: fx.Node, factor: float, p: int
) -> None:
    """Moves the reference where a fired output reads, and charges the move to the outputs that did not fire."""
    refresh, source = g.refresh(graph), conv.residual.args[0]
    assert isinstance(source, fx.Node)
    geometry = (window.kernel, window.stride, window.padding, window.dilation)
    size = tuple(g.value(source).shape[2:])
    read = g.insert(graph, ops.covered, (mask, size, *geometry), conv.fresh)
    reference = g.insert(graph, ops.select, (read, source, conv.reference, refresh), conv.fresh)
    moved = g.insert(graph, aten.sub.Tensor, (reference, conv.reference), conv.fresh)
    missed = g.insert(graph, ops.window_norm, (moved, *geometry, p), conv.fresh)
    if factor != 1.0:
        missed = g.insert(graph, aten.mul.Tensor, (missed, factor), conv.fresh)
    total = g.insert(graph, aten.add.Tensor, (carry, missed), conv.fresh)
    zero = g.insert(graph, aten.zeros_like.default, (carry,), conv.fresh)
    left = g.insert(graph, ops.select, (mask, zero, total, refresh), conv.fresh)
    g.set_following(graph, conv.reference, reference)
    g.set_following(graph, carry, left)


def _output_factor(gm: fx.GraphModule, conv: fx.Node, p: int) -> float:
    weight = g.parameter(gm, g.arguments(conv)["weight"])
    assert weight is not None
    norm = float(weight.detach().double().abs().pow(p).sum().pow(1 / p))
    return norm / float(weight.shape[0] ** (1 / p))
