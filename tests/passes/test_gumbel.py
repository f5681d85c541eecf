"""The Gumbel gates against their formula in NumPy float64, and what an untrained gate does."""

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from skipfx import ops
from skipfx.errors import OptionError
from skipfx.options import Gumbel, InputNorm
from skipfx.testing import run_clip
from skipfx.transformation import transform
from tests.networks import Branches, branches_clip, moving_clip, seeded
from tests.passes.norm_reference import Floats, Layer, held, previous
from tests.passes.test_norm import ARRAYS, CLIP, LAYERS, assert_agrees, one_layer


@dataclass(frozen=True)
class Learned(Layer):
    """A convolution whose gate takes a * |r| over the window for its norm."""

    gate_weight: Floats

    def norm(self, residual: Floats, gate: Any) -> Floats:
        result = np.zeros(self.size(residual))
        for position, window, _ in self.windows(residual):
            result[position] = (self.gate_weight * np.abs(window)).sum()
        return result


def learn(gm: fx.GraphModule, layer: Layer, block: int) -> tuple[Learned, float]:
    """Puts random weights into the graph's one gate, and the bias that shuts half of all blocks of the clip."""
    parameters = dict(gm.named_parameters())
    weight, bias = parameters["_gate_weight"], parameters["_gate_bias"]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight.copy_(torch.rand(weight.shape, generator=generator) - 0.3)
        learned = Learned(layer.module, weight[0].double().numpy())
        scores = [learned.norm(after - before, None) for before, after in pairwise(ARRAYS)]
        largest = [
            score[i : i + block, j : j + block].max()
            for score in scores
            for i in range(0, score.shape[0], block)
            for j in range(0, score.shape[1], block)
        ]
        bias.fill_(-float(np.median(largest)) * 1.0001)
    return learned, float(bias.detach())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(
    "reference, update", [("previous", "residual"), ("previous", "recompute"), ("held", "recompute")]
)
def test_gates_are_their_formula(name: str, block: Any, reference: Any, update: str) -> None:
    layer, variants = one_layer(name)
    gm = variants.stream(Gumbel(block=block, reference=reference), update=update)
    learned, bias = learn(gm, layer, block)
    gate: Any = SimpleNamespace(eps=-bias)
    if reference == "held":
        expected = held(learned, ARRAYS, gate, block)
    else:
        expected = previous(learned, ARRAYS, gate, block, update)
    assert_agrees(run_clip(gm, CLIP), expected, layer)


def test_the_input_norm_gate_is_one_of_them() -> None:
    _, variants = one_layer("3x3")
    gm, eps = variants.stream(Gumbel(block=2)), 0.05
    parameters = dict(gm.named_parameters())
    with torch.no_grad():
        parameters["_gate_weight"].fill_(1 / parameters["_gate_weight"].numel())
        parameters["_gate_bias"].fill_(-eps)
    theirs = run_clip(variants.stream(InputNorm(eps=eps), block=2), CLIP)
    for mine, other in zip(run_clip(gm, CLIP), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert not torch.equal(theirs[-1][0], run_clip(gm, CLIP, refresh_all=True)[-1][0]), "the gate never shuts"


def test_a_shut_gate_keeps_what_it_was_shown() -> None:
    _, variants = one_layer("3x3")
    gm, eps = variants.stream(Gumbel(block=4)), 0.045
    parameters = dict(gm.named_parameters())
    with torch.no_grad():
        parameters["_gate_weight"].fill_(1 / parameters["_gate_weight"].numel())
        parameters["_gate_bias"].fill_(-eps)
    slow = [(CLIP[0][0] + 0.01 * time,) for time in range(50)]  # the fifth step opens the gate
    found = [mine for (mine, *_) in run_clip(gm, slow)]
    fired = [not torch.equal(mine, before) for before, mine in pairwise(found)]
    assert 8 <= sum(fired) < 25
    dense = run_clip(gm, slow, refresh_all=True)[-1][0]
    window = parameters["_gate_weight"].numel()
    assert float((found[-1] - dense).abs().max()) <= eps * window * float(parameters["weight"].detach().abs().max())


@pytest.mark.parametrize("block", [1, 8])
def test_untrained_gates_are_open(block: Any) -> None:
    gm = transform(seeded(Branches()), branches_clip()[0], gate=Gumbel(block=block)).graph_module
    for mine, dense in zip(run_clip(gm, branches_clip()), run_clip(gm, branches_clip(), refresh_all=True), strict=True):
        assert all(map(torch.equal, mine, dense))


def test_a_block_may_be_named_either_way() -> None:
    model, frame = seeded(nn.Conv2d(1, 1, 1)), torch.rand(1, 1, 4, 4)
    named = (transform(model, (frame,), gate=Gumbel(block=2)), transform(model, (frame,), gate=Gumbel(), block=2))
    masks = [skip.graph_module.graph.find_nodes(op="call_function", target=ops.fires)[0].args[2] for skip in named]
    assert masks == [2, 2]


def test_what_a_gate_cannot_do_is_refused() -> None:
    model, frames = seeded(nn.Conv2d(1, 1, 1)), (torch.rand(1, 1, 4, 4),)
    with pytest.raises(OptionError, match="some would count a change twice"):
        transform(model, frames, gate=Gumbel(), update="residual")
    with pytest.raises(OptionError, match="a gumbel gate learns its own"):
        transform(seeded(nn.Sequential(model)), frames, gate=Gumbel(), thresholds={"0": 0.1})


@pytest.mark.parametrize("gate", [Gumbel(), Gumbel(reference="previous"), InputNorm(eps=0)])
def test_uneven_borders(gate: Any) -> None:
    model = seeded(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, stride=2)))
    clip = moving_clip(2, 8, 10)
    gm = transform(model, clip[0], gate=gate).graph_module
    for (mine,), (frame,) in zip(run_clip(gm, clip), clip, strict=True):
        torch.testing.assert_close(mine, model(frame).detach(), rtol=0, atol=1e-6)
