"""The norm gates against the formulas of the paper in NumPy float64, and the law of the held reference."""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import OptionError
from skipfx.options import Gate, InputNorm, OutputNorm
from skipfx.testing import run_clip, zero_states
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded
from tests.passes.norm_reference import Floats, Layer, held, previous
from tests.strategies import Sample, samples
from tests.variants import Variants

aten = torch.ops.aten


CLIP = moving_clip(4, 9, 11, length=6, noise=0.15)  # odd sizes: blocks at the border are partial
ARRAYS: list[Floats] = [frame[0].double().numpy() for (frame,) in CLIP]
GATES = [(InputNorm, 1, 1), (OutputNorm, 2, 2), (OutputNorm, 1, 4), (InputNorm, 2, 8)]
LAYERS: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilation": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise, no padding, stride": {"kernel_size": (2, 3), "stride": (1, 2), "groups": 4},
    "1x1": {"kernel_size": 1, "stride": 2},
    "wide padding": {"kernel_size": 2, "padding": 2, "stride": 3},
}


@cache
def one_layer(name: str) -> tuple[Layer, Variants]:
    """A convolution that the clip fits."""
    module = nn.Conv2d(4, 4, **LAYERS[name])
    return Layer(module), Variants(seeded(module), CLIP[0])


def firing(layer: Layer, gate: type[InputNorm | OutputNorm], block: int, **options: Any) -> InputNorm | OutputNorm:
    """The gate with an eps that opens about half of all blocks of the clip."""
    norms = [layer.norm(after - before, gate(eps=0, **options)) for before, after in pairwise(ARRAYS)]
    largest = [
        norm[i : i + block, j : j + block].max()
        for norm in norms
        for i in range(0, norm.shape[0], block)
        for j in range(0, norm.shape[1], block)
    ]
    return gate(eps=float(np.median(largest)) * 1.0001, **options)


def assert_agrees(found: list[tuple[Tensor, ...]], expected: list[Floats], layer: Layer) -> None:
    for (output,), mine in zip(found, expected, strict=True):
        # float32 against float64, sums of at most 36 terms of order 1, over six frames
        np.testing.assert_allclose(output[0].numpy(), mine, atol=2e-5)
    off = [not np.allclose(mine, layer.plain(x), atol=1e-3) for mine, x in zip(expected, ARRAYS, strict=True)]
    assert any(off), "the gate never shuts"
    assert not np.allclose(expected[0], expected[-1], atol=1e-3), "the gate never opens"


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("gate, p, block", GATES)
@pytest.mark.parametrize("update", ["residual", "recompute"])
def test_gates_are_the_formulas_of_the_paper(name: str, gate: Any, p: int, block: int, update: str) -> None:
    layer, variants = one_layer(name)
    options = firing(layer, gate, block, p=p, reference="previous")
    found = run_clip(variants.stream(options, block=block, update=update), CLIP)
    assert_agrees(found, previous(layer, ARRAYS, options, block, update), layer)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("gate, p, block", GATES)
def test_held_reference_is_its_recursion(name: str, gate: Any, p: int, block: int) -> None:
    layer, variants = one_layer(name)
    options = firing(layer, gate, block, p=p, reference="held")
    found = run_clip(variants.stream(options, block=block), CLIP)
    assert_agrees(found, held(layer, ARRAYS, options, block), layer)


class _Watch(fx.Interpreter):
    """Notes what every gated convolution read, and where it was computed."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is ops.select and n.args[1].target is aten.conv2d.default:  # type: ignore[union-attr]
            mask, conv, _, refresh = n.args
            opened = self.env[mask] | self.env[refresh]  # type: ignore[index]
            self.seen[conv.name] = (self.env[conv.args[0]], opened.expand(self.env[mask].shape))  # type: ignore[union-attr, index]
        return result


@given(samples(islands=False), st.booleans(), st.sampled_from([1, 2]), st.sampled_from([1, 4]), st.integers(1, 4))
def test_a_shut_position_is_never_further_than_eps_from_what_it_was_computed_from(
    sample: Sample, output_norm: bool, p: Any, block: Any, refreshed: int
) -> None:
    eps = 0.15
    gate = (OutputNorm if output_norm else InputNorm)(eps=eps, p=p)
    gm = transform(sample.model, sample.clip[0], gate=gate, block=block).graph_module
    convs = {node.name: node for node in gm.graph.find_nodes(op="call_function", target=aten.conv2d.default)}
    # per convolution, what each output position was last computed from: windows [C * kh * kw, positions]
    computed_from: dict[str, Tensor] = {}
    watch, states = _Watch(gm), zero_states(gm)
    with torch.no_grad():
        for index, frames in enumerate(sample.clip * 2):
            _, states = watch.run(*frames, *states, torch.tensor(index in (0, refreshed)))
            for name, (x, opened) in watch.seen.items():
                windows = _windows(gm, convs[name], x)
                last = computed_from.get(name, windows)
                computed_from[name] = torch.where(opened.flatten(2)[0], windows, last)
                distance = (windows - computed_from[name]).double().abs().pow(p).mean(0).pow(1 / p)
                factor = _factor(gm, convs[name], p) if output_norm else 1.0
                # the carry sums at most ten float32 norms
                assert float(distance.max()) * factor <= eps * (1 + 1e-5)


def _windows(gm: fx.GraphModule, conv: fx.Node, x: Tensor) -> Tensor:
    args = g.arguments(conv)
    weight = g.parameter(gm, args["weight"])
    assert weight is not None
    unfolded = nn.functional.unfold(x, weight.shape[2:], args["dilation"], args["padding"], args["stride"])
    return unfolded[0]


def _factor(gm: fx.GraphModule, conv: fx.Node, p: int) -> float:
    weight = g.parameter(gm, conv.args[1])
    assert weight is not None
    return float(weight.double().abs().pow(p).sum().pow(1 / p)) / float(weight.shape[0] ** (1 / p))


def test_the_bias_enters_once() -> None:
    layer, variants = one_layer("3x3")
    gm = variants.stream(InputNorm(eps=0, reference="previous"), update="residual")
    still = [CLIP[0]] * 30 + [CLIP[1]]
    for (found,), (frame,) in zip(run_clip(gm, still), still, strict=True):
        # a bias counted twice would be off by up to 0.5
        torch.testing.assert_close(found, layer.module(frame).detach(), atol=1e-5, rtol=0)


def test_a_norm_equal_to_eps_does_not_fire() -> None:
    module = nn.Conv2d(1, 1, 1)
    clip = [(torch.full((1, 1, 2, 2), value),) for value in (0.0, 0.25, 0.0, 0.5)]
    gm = transform(module, (torch.rand(1, 1, 2, 2),), gate=InputNorm(eps=0.25, reference="previous")).graph_module
    outputs = [output[0] for output in run_clip(gm, clip)]
    assert torch.equal(outputs[1], outputs[0]) and torch.equal(outputs[2], outputs[0])
    assert not torch.equal(outputs[3], outputs[0])


def test_the_paper_s_reference_forgets_and_the_held_one_does_not() -> None:
    module = seeded(nn.Conv2d(2, 3, 3, padding=1))
    clip = [(torch.full((1, 2, 6, 6), 0.04 * time),) for time in range(40)]
    errors = []
    for reference in ("previous", "held"):
        gate = InputNorm(eps=0.1, reference=reference)
        gm = transform(module, moving_clip(2, 6, 6)[0], gate=gate).graph_module
        errors.append(float((run_clip(gm, clip)[-1][0] - module(clip[-1][0])).detach().abs().max()))
    assert errors[0] > 1 and errors[1] < 0.5


def test_the_norm_does_not_depend_on_the_resolution() -> None:
    residual = torch.full((1, 3, 32, 32), 0.5)
    norms = [
        ops.window_norm(residual[:, :, :n, :n], (3, 3), (1, 1), (1, 1), (1, 1), 1)[0, 0, 2, 2] for n in (8, 16, 32)
    ]
    assert len({float(norm) for norm in norms}) == 1 and float(norms[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("gate", [InputNorm(eps=0), OutputNorm(eps=0), InputNorm(eps=0, reference="previous")])
def test_exact_at_zero(gate: Gate) -> None:
    model = seeded(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2)))
    clip = moving_clip(2, 9, 9, noise=0.0)
    gm = transform(model, clip[0], gate=gate).graph_module
    for (mine,), (dense,) in zip(run_clip(gm, clip), run_clip(gm, clip, refresh_all=True), strict=True):
        assert torch.equal(mine, dense)


def test_thresholds_of_layers_are_their_eps() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3)))
    gm = transform(model, (torch.rand(1, 2, 9, 9),), gate=InputNorm(eps=0.5), thresholds={"1": 0.125}).graph_module
    tests = gm.graph.find_nodes(op="call_function", target=aten.gt.Scalar)
    assert [(g.record(test).layer, test.args[1]) for test in tests] == [("0", 0.5), ("1", 0.125)]


def test_residual_sums_against_a_held_reference_are_refused() -> None:
    with pytest.raises(OptionError, match="some would count a change twice"):
        transform(seeded(nn.Conv2d(1, 1, 1)), (torch.rand(1, 1, 4, 4),), gate=InputNorm(eps=0.1), update="residual")
