"""Makes batch-norm in inference form a part of the convolution before it, or else plain arithmetic.

    y = gamma (w * x + b - mean) / sqrt(var + eps) + beta = (s w) * x + (b - mean) s + beta
    s = gamma / sqrt(var + eps)

Folded where the convolution has no other consumer; elsewhere (before the activation of a pre-activation network, say)
it becomes y = s x + (beta - mean s) per channel. The arithmetic on parameters is in float64, so that it costs no
accuracy.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import Stage

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv2d.default, aten.conv_transpose2d.input}
BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """No batch-norm of a feature map remains."""

    name = "fold_batchnorm"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            result = _result(node) if node.target in BATCH_NORMS else None
            if result is not None:
                scale, shift = _affine(gm, node)
                plain = _fold(gm, node, scale, shift) or _spell_out(gm, result, node.args[0], scale, shift)
                result.replace_all_uses_with(plain)
                for dead in dict.fromkeys((result, node)):
                    gm.graph.erase_node(dead)
                modified = True
        return modified


def _result(norm: fx.Node) -> fx.Node | None:
    """The node that holds the normalised map; None where the batch-norm is in training form, or of no map."""
    if norm.target is aten.batch_norm.default:
        result: fx.Node | None = None if g.arguments(norm)["training"] else norm
    else:
        users = list(norm.users)
        result = users[0] if len(users) == 1 and users[0].args[1] == 0 else None
    return result if result is not None and g.is_map(result) else None


def _affine(gm: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a batch-norm in inference form, float64."""
    args = g.arguments(norm)
    mean, var = g.parameter(gm, args["running_mean"]), g.parameter(gm, args["running_var"])
    gamma, beta = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    assert mean is not None and var is not None
    scale = torch.rsqrt(var.double() + args["eps"])
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() * scale
    return scale, shift if beta is None else shift + beta.double()


def _fold(gm: fx.GraphModule, norm: fx.Node, scale: Tensor, shift: Tensor) -> fx.Node | None:
    """The convolution before the batch-norm with new parameters, if there is one of its own."""
    conv = norm.args[0]
    assert isinstance(conv, fx.Node)
    if conv.target not in CONVOLUTIONS or len(conv.users) != 1:
        return None
    args = g.arguments(conv)
    weight, bias = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    if weight is None or (args["bias"] is not None and bias is None):
        return None
    if conv.target is aten.conv2d.default:
        folded = (weight.double() * scale[:, None, None, None]).float()
    else:  # [C_in, C_out / groups, kh, kw]: the group of an output is that of the input
        groups = args["groups"]
        parts = weight.double().view(groups, -1, *weight.shape[1:]) * scale.view(groups, 1, -1, 1, 1)
        folded = parts.view(weight.shape).float()
    offset = (shift if bias is None else bias.double() * scale + shift).float()
    layer = g.record(conv).layer
    with gm.graph.inserting_before(conv):
        new_weight = g.add_parameter(gm, f"{layer}_folded_weight", folded, conv)
        new_bias = g.add_parameter(gm, f"{layer}_folded_bias", offset, conv)
    args |= {"weight": new_weight, "bias": new_bias}
    conv.args = tuple(args.values())
    conv.kwargs = {}
    return conv


def _spell_out(gm: fx.GraphModule, result: fx.Node, source: Any, scale: Tensor, shift: Tensor) -> fx.Node:
    """The batch-norm as a product and a sum per channel."""
    layer = g.record(result).layer
    with gm.graph.inserting_before(result):
        factor = g.add_parameter(gm, f"{layer}_scale", scale.float()[:, None, None], result)
        offset = g.add_parameter(gm, f"{layer}_shift", shift.float()[:, None, None], result)
        product = g.insert(gm.graph, aten.mul.Tensor, (source, factor), result, "unknown")
        return g.insert(gm.graph, aten.add.Tensor, (product, offset), result, "unknown")
