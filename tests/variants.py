"""Many stream graphs of one model, captured once: capturing is what takes the time."""

import copy
from dataclasses import replace
from typing import Any

from torch import fx, nn

from skipfx import graph as g
from skipfx.capture import capture
from skipfx.options import Gate, Hold, TransformOptions
from skipfx.recipe import Recipe, classify, finish
from skipfx.transformation import measure
from tests.networks import Frames


class Variants:
    """A model, ready to be transformed in several ways."""

    def __init__(self, model: nn.Module, frames: Frames) -> None:
        self.program = capture(model, frames)
        self._classified = classify(self.program)
        self._scales = measure(self._classified, frames)

    def stream(self, gate: Gate, **options: Any) -> fx.GraphModule:
        """The stream graph for a gate; a hold gate must say its input threshold."""
        gm = fx.GraphModule(self._classified, copy.deepcopy(self._classified.graph))
        for node in gm.graph.nodes:
            node.meta[g.KEY] = replace(g.record(node))  # a copied graph shares the records of its nodes
        threshold = gate.input_threshold if isinstance(gate, Hold) else 0.0
        assert threshold is not None
        options = {"gate": gate, **options}
        return finish(gm, Recipe(options=TransformOptions(**options), input_threshold=threshold, scales=self._scales))
