"""The Gumbel gates of Skip-Convolutions (CVPR 2021, section 3.2): a convolution decides which residuals matter.

    logit = a * |r| + b        a has the geometry of the layer and one output channel
    the gate fires where the logit is positive; `skipfx.training.gates` says what it does in training

The paper writes f(r), its code takes f(|r|). The magnitude it is: what a linear function of r sees in a change it
cannot see in the opposite one, and with a = 1 / (C_in kh kw), b = -eps this is the input-norm gate.

Untrained, a is SLOPE times the mean of |r| as a share of the RMS of x, and b > 0: every gate is open in evaluation, so
training starts from the dense model's output, and what closes first as b falls is where little changed.
"""

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import OptionError
from skipfx.options import Gumbel, TransformOptions
from skipfx.passes.gate_convolutions import add_gate_parameter, gate_convolution, geometry, refuse_residual_sums
from skipfx.passes.rules import local
from skipfx.passes.to_residual import Residual, residuals

aten = torch.ops.aten
SLOPE = 50.0  # a change of a tenth of what x is stands well above the noise, that of a sensor does not
OPEN = 2.0  # P(open) = 0.88 under noise: shut often enough to learn from it; a block needs less per position


def insert_gumbel(gm: fx.GraphModule, options: TransformOptions, input_threshold: float) -> bool:
    """Puts a learned gate on every convolution in residual form.

    Raises:
        OptionError: thresholds are given, or update="residual" with reference="held".
    """
    gate = options.gate
    assert isinstance(gate, Gumbel)
    refuse_residual_sums(options, gate.reference)
    if options.thresholds:
        raise OptionError("thresholds: a gumbel gate learns its own; leave them out")
    found = residuals(gm.graph)
    slopes = [_slope(conv) for conv in found]  # of the network as it is: gates hide what a value comes from
    for conv, slope in zip(found, slopes, strict=True):
        _gate(gm, conv, gate.reference, options.mask_block, slope)
    return bool(found)


def _slope(conv: Residual) -> float:
    source = conv.residual.args[0]
    if isinstance(source, fx.Node) and source.target is ops.border:
        source = source.args[0]
    assert isinstance(source, fx.Node)
    scale = g.record(source).scale
    return SLOPE / scale if scale > 0 else 0.0


def _gate(gm: fx.GraphModule, conv: Residual, reference: str, block: int, slope: float) -> None:
    graph, macs = gm.graph, local(gm, conv.fresh).macs
    channels = g.value(conv.residual).shape[1]
    kernel, stride, padding, dilation = geometry(gm, conv.fresh)
    with graph.inserting_before(conv.residual):
        start = torch.full((1, channels, *kernel), slope / (channels * kernel[0] * kernel[1]))
        weight = add_gate_parameter(gm, "gate_weight", start, conv.fresh)
        bias = add_gate_parameter(gm, "gate_bias", torch.full((1,), OPEN / block**2), conv.fresh)

    def score(residual: fx.Node) -> fx.Node:
        size = g.insert(graph, aten.abs.default, (residual,), conv.fresh)
        return g.insert(graph, aten.conv2d.default, (size, weight, None, stride, padding, dilation), conv.fresh)

    def fires(total: fx.Node) -> fx.Node:
        mask = g.insert(graph, ops.fires, (total, bias, block), conv.fresh)
        _, _, height, width = g.value(mask).shape
        g.record(mask).decides = (g.Decision(macs, (height, width)),)
        g.record(mask).cost = channels * kernel[0] * kernel[1] * height * width
        return mask

    gate_convolution(gm, conv, reference, score, fires)
