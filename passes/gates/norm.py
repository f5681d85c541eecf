"""The norm gates of Skip-Convolutions (CVPR 2021, section 3.2) on every local convolution.

    n = mean over the kernel window and the input channels of |r|^p, ^(1/p)         input_norm   (eq. 6)
    n = that times ||w||_p / C_out^(1/p), a bound in the units of the output        output_norm  (eq. 7)
    the gate fires where n > eps, strictly

With a held reference (`skipfx.passes.gate_convolutions`) the input that an output was last computed from is never
further than eps from x_t.
"""

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.options import InputNorm, NormGate, OutputNorm, TransformOptions
from skipfx.passes.gate_convolutions import gate_convolution, geometry, refuse_residual_sums
from skipfx.passes.to_residual import Residual, residuals

aten = torch.ops.aten


def insert_norm(gm: fx.GraphModule, options: TransformOptions, input_threshold: float) -> bool:
    """Puts a norm gate on every convolution in residual form.

    Raises:
        OptionError: update="residual" with reference="held".
    """
    gate = options.gate
    assert isinstance(gate, InputNorm | OutputNorm)
    refuse_residual_sums(options, gate.reference)
    found = residuals(gm.graph)
    for conv in found:
        eps = gate.eps
        for pattern, override in options.thresholds.items():
            if g.matches(g.record(conv.fresh).layer, pattern):
                eps = override
        _gate(gm, conv, gate, eps)
    return bool(found)


def _gate(gm: fx.GraphModule, conv: Residual, gate: NormGate, eps: float) -> None:
    shape = geometry(gm, conv.fresh)
    factor = _output_factor(gm, conv.fresh, gate.p) if isinstance(gate, OutputNorm) else 1.0

    def score(residual: fx.Node) -> fx.Node:
        norm = g.insert(gm.graph, ops.window_norm, (residual, *shape, gate.p), conv.fresh)
        return norm if factor == 1.0 else g.insert(gm.graph, aten.mul.Tensor, (norm, factor), conv.fresh)

    def fires(total: fx.Node) -> fx.Node:
        return g.insert(gm.graph, aten.gt.Scalar, (total, eps), conv.fresh)

    gate_convolution(gm, conv, gate.reference, score, fires)


def _output_factor(gm: fx.GraphModule, conv: fx.Node, p: int) -> float:
    weight = g.parameter(gm, g.arguments(conv)["weight"])
    assert weight is not None
    norm = float(weight.detach().double().abs().pow(p).sum().pow(1 / p))
    return norm / float(weight.shape[0] ** (1 / p))
