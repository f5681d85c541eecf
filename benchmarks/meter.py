"""Counts what gates let through, in PyTorch: multiply-accumulates of convolutions behind norm and hold gates."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from skipfx import graph as g
from skipfx import ops
from skipfx.model import SkipModel
from skipfx.passes.rules import local


class Meter(fx.Interpreter):
    """Counts the multiply-accumulates of convolutions behind norm and hold gates, frame by frame."""

    def __init__(self, gm: fx.GraphModule) -> None:
        """Starts at nothing."""
        super().__init__(gm)
        self.gm, self.macs = gm, 0.0
        self.before: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node; at a convolution counts the positions that its gate opened or its changed inputs reach."""
        result = super().run_node(n)
        conv = n.args[1] if n.target is ops.select else n
        if isinstance(conv, fx.Node) and g.record(conv).role == "local" and local(self.gm, conv).family == "conv":
            if n is not conv:
                self._count(conv, self.env[n.args[0]].float())  # type: ignore[index]
            elif all(user.target is not ops.select for user in n.users):
                self._count(conv, self._reached(conv))
        return result

    def _count(self, conv: fx.Node, active: Tensor) -> None:
        self.macs += float(active.sum()) * local(self.gm, conv).macs

    def _reached(self, conv: fx.Node) -> Tensor:
        """The positions whose window holds a change of the input, as the hold gate left it."""
        found = local(self.gm, conv)
        x, window = self.env[found.inputs[0]], found.window
        changed = (x != self.before.get(conv, x + 1)).any(1, keepdim=True).float()
        self.before[conv] = x
        ones = torch.ones(1, 1, *window.kernel)
        return (F.conv2d(changed, ones, None, window.stride, window.padding, window.dilation) > 0).float()


def metered(skip: SkipModel, clip: Tensor) -> float:
    """Multiply-accumulates per frame after the first."""
    meter, state = Meter(skip.graph_module), [torch.zeros(g.value(n).shape) for n in g.states(skip.graph_module.graph)]
    for time, frame in enumerate(clip):
        if time == 1:
            meter.macs = 0.0
        _, state = meter.run(frame[None], *state, torch.tensor(time == 0))
    return meter.macs / (len(clip) - 1)
