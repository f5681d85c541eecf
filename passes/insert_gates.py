"""Inserts the gate that the options name."""

from dataclasses import dataclass

from torch import fx

from skipfx.options import TransformOptions
from skipfx.passes.base import Pass
from skipfx.passes.gates import INSERT
from skipfx.spec import Stage


@dataclass(frozen=True)
class InsertGates(Pass):
    """Decides, position by position, what counts as changed.

    Attributes:
        options: the transformation.
        input_threshold: tau of the frame, in the units of the model's input.
    """

    options: TransformOptions
    input_threshold: float

    name = "insert_gates"
    stage = Stage.GATED

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        return INSERT[type(self.options.gate)](gm, self.options, self.input_threshold)
