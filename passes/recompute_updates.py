"""Turns the residual sum into the value it stands for: z_former + w * (x - x_former)  ->  w * x + b.

Why it may: with held inputs the former output is w * x_former + b by induction from the refresh on, so the sum
telescopes to w * x + b, without the rounding that a sum of many frames collects. Behind a norm gate a position that was
shut has missed residuals; there the new form is what a refresh of that position would give, which is why "recompute"
is an option of its own and not only an optimisation.
"""

from dataclasses import dataclass
from typing import Literal

from torch import fx

from skipfx import graph as g
from skipfx.passes.base import Pass
from skipfx.passes.to_residual import residuals
from skipfx.spec import Stage


@dataclass(frozen=True)
class RecomputeUpdates(Pass):
    """Replaces every update by the plain convolution, unless the residual form was asked for.

    Attributes:
        update: "recompute" or "residual".
    """

    update: Literal["recompute", "residual"] = "recompute"

    name = "recompute_updates"
    stage = Stage.MASKED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        if self.update == "residual":
            return False
        found = residuals(gm.graph)
        for conv in found:
            g.record(conv.fresh).held = g.record(conv.update).held
            conv.update.replace_all_uses_with(conv.fresh)
        return bool(found)
