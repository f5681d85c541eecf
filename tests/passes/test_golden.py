"""The stream graphs of one network as text: what a change to the compiler does to them shows in the diff."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class _Operators(nn.Module):
    """One of each way in which an operator becomes another, or a border, a move or a reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 1)
        self.norm, self.into, self.out = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.stem(F.pad(x, (0, 1, 0, 1)))
        y = y * torch.sigmoid(self.scale(F.adaptive_avg_pool2d(y, 1)))
        y = F.channel_shuffle(torch.where(y > 0, y, 0.1 * y), 2)
        y = y + self.out(F.gelu(self.into(self.norm(y.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return self.up(y), y.softmax(1).argmax(1), self.head(y.mean((2, 3)))


def test_golden_graph_of_operators(golden: Callable[[str, str], None]) -> None:
    model = _Operators().eval()
    golden("operators", g.text(classify(capture(model, (torch.zeros(1, 3, 12, 16),)))))
