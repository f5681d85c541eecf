"""Counts in PyTorch what gates let through: the multiply-accumulates of every convolution, and of the gates that learn.

A learned gate is charged where it has to be evaluated: at positions whose window holds a residual that is not zero, and
once more where it holds a part of the reference that moved. Norms multiply nothing and are not charged.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from skipfx import graph as g
from skipfx import ops
from skipfx.inputs import FRESH
from skipfx.model import SkipModel
from skipfx.passes.gate_convolutions import is_gate_parameter
from skipfx.passes.rules import local
from skipfx.passes.rules.common import Pair

aten = torch.ops.aten


class Meter(fx.Interpreter):
    """Counts the multiply-accumulates behind norm, hold and Gumbel gates, frame by frame."""

    def __init__(self, gm: fx.GraphModule) -> None:
        """Starts at nothing."""
        super().__init__(gm)
        self.gm, self.macs = gm, 0.0
        self.before: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node; at a convolution counts the positions that its gate opened or its changed inputs reach."""
        result = super().run_node(n)
        conv = n.args[1] if n.target is ops.select else n
        if n.target is aten.conv2d.default and is_gate_parameter(str(n.args[1])):
            self._count_gate(n)
        elif isinstance(conv, fx.Node) and g.record(conv).role == "local" and local(self.gm, conv).family == "conv":
            if n is not conv:
                self._count(conv, self.env[n.args[0]].float())  # type: ignore[index]
            elif all(user.target is not ops.select for user in n.users):
                self._count(conv, self._reached(conv))
        return result

    def _count(self, conv: fx.Node, active: Tensor) -> None:
        self.macs += float(active.sum()) * local(self.gm, conv).macs

    def _count_gate(self, n: fx.Node) -> None:
        residual, weight, _, *geometry = self.fetch_args_kwargs_from_env(n)[0]
        self.macs += float(reached(residual != 0, weight.shape[2:], *geometry).sum()) * weight[0].numel()

    def _reached(self, conv: fx.Node) -> Tensor:
        """The positions whose window holds a change of the input, as the hold gate left it."""
        found = local(self.gm, conv)
        x, window = self.env[found.inputs[0]], found.window
        changed = x != self.before.get(conv, x + 1)
        self.before[conv] = x
        return reached(changed, window.kernel, window.stride, window.padding, window.dilation)


def reached(changed: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """The output positions whose window holds something that changed in any channel. [B, 1, H, W] of 0 and 1."""
    ones = torch.ones(1, 1, *kernel)
    return (F.conv2d(changed.any(1, keepdim=True).float(), ones, None, stride, padding, dilation) > 0).float()


def metered(skip: SkipModel, clips: Tensor) -> tuple[Any, float]:
    """Runs clips [B, T, C, H, W]; the outputs in the model's own structure, and the cost of a frame after the first."""
    meter = Meter(skip.graph_module)
    state: Any = [value for name, value in skip.init_state(len(clips)).items() if name != FRESH]
    found = []
    for time in range(clips.shape[1]):
        if time == 1:
            meter.macs = 0.0
        outputs, state = meter.run(clips[:, time], *state, torch.tensor(time == 0))
        found.append(outputs)
    stacked = [torch.stack(leaf, 1) for leaf in zip(*found, strict=True)]
    return skip.structured(stacked), meter.macs / len(clips) / (clips.shape[1] - 1)
