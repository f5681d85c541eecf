"""The stream graphs of one network as text: what a change to the compiler does to them shows in the diff."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from skipfx import graph as g
from skipfx.capture import capture
from skipfx.options import Gate, Hold, InputNorm, OutputNorm, TransformOptions
from skipfx.recipe import Recipe, classify, finish
from tests.networks import Branches

HOLD = Hold(threshold=0.25, dilation=3)
CASES: dict[str, tuple[Gate, dict[str, Any]]] = {
    "hold": (HOLD, {}),
    "hold_residual": (HOLD, {"update": "residual"}),
    "block": (HOLD, {"block": 4}),
    "input_norm": (InputNorm(eps=0.5), {"thresholds": {"body": 0.25}}),
    "output_norm": (
        OutputNorm(eps=0.5, reference="previous"),
        {"update": "residual", "block": 2, "exclude": ("head",)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden_graph(name: str, golden: Callable[[str, str], None]) -> None:
    model = Branches().eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)  # so that norms of weights are the same everywhere, to the last digit
    gate, options = CASES[name]
    gm = classify(capture(model, (torch.zeros(1, 3, 12, 16),)), options.get("exclude", ()))
    scales = {node.name: 1.0 for node in gm.graph.nodes}
    recipe = Recipe(options=TransformOptions(gate=gate, **options), input_threshold=0.125, scales=scales)
    golden(name, g.text(finish(gm, recipe)))
