"""Folds batch-norm in inference form into the convolution before it.

    y = gamma (w * x + b - mean) / sqrt(var + eps) + beta = (s w) * x + (b - mean) s + beta,  s = gamma / sqrt(var + eps)

Folded only where the convolution has no other consumer. The arithmetic is in float64, so that folding costs no
accuracy.
"""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.spec import Stage

aten = torch.ops.aten
BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """conv2d -> batch_norm becomes one conv2d with a bias."""

    name = "fold_batchnorm"
    stage = Stage.CAPTURED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.target in BATCH_NORMS and _fold(gm, node):
                modified = True
        return modified


def _fold(gm: fx.GraphModule, norm: fx.Node) -> bool:
    conv = norm.args[0]
    assert isinstance(conv, fx.Node)
    results = [user for user in norm.users if user.target is operator.getitem]
    if norm.target is aten.batch_norm.default:
        results = [norm]
    if conv.target is not aten.conv2d.default or len(conv.users) != 1 or len(results) != 1:
        return False
    args = g.arguments(conv)
    weight, bias = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    if weight is None or (args["bias"] is not None and bias is None):
        return False
    scale, shift = _affine(gm, norm, weight.shape[0])
    folded = (weight.double() * scale[:, None, None, None]).float()
    offset = (shift if bias is None else bias.double() * scale + shift).float()
    layer = g.record(conv).layer
    with gm.graph.inserting_before(conv):
        new_weight = g.add_parameter(gm, f"{layer}_folded_weight", folded, conv)
        new_bias = g.add_parameter(gm, f"{layer}_folded_bias", offset, conv)
    conv.args = (args["input"], new_weight, new_bias, args["stride"], args["padding"], args["dilation"], args["groups"])
    conv.kwargs = {}
    results[0].replace_all_uses_with(conv)
    for node in dict.fromkeys((*results, norm)):
        gm.graph.erase_node(node)
    return True


def _affine(gm: fx.GraphModule, norm: fx.Node, channels: int) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a batch-norm in inference form."""
    args = g.arguments(norm)
    mean, var = g.parameter(gm, args["running_mean"]), g.parameter(gm, args["running_var"])
    gamma, beta = g.parameter(gm, args["weight"]), g.parameter(gm, args["bias"])
    assert mean is not None and var is not None
    scale = torch.rsqrt(var.double() + args["eps"])
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() * scale
    return scale, shift if beta is None else shift + beta.double()
