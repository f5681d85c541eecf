"""The hold gate: what it computes, and the promises it makes (no drift, exact at zero, nothing for a still frame)."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx import graph as g
from skipfx import ops
from skipfx.options import Hold
from skipfx.testing import drift, run_clip, run_dense
from skipfx.transformation import transform
from tests.networks import Branches, Frames, Squeeze, branches_clip, moving_clip, seeded
from tests.strategies import Sample, samples
from tests.variants import Variants

Floats = NDArray[np.float64]


def stream(model: nn.Module, frames: Frames, gate: Hold, **options: Any) -> fx.GraphModule:
    return transform(model, frames, gate=gate, **options).graph_module


def held_nodes(gm: fx.GraphModule) -> list[str]:
    """The layers whose values are held, the frame first."""
    tests = gm.graph.find_nodes(op="call_function", target=ops.changed)
    return [g.record(test.args[0]).layer or str(test.args[0]) for test in tests]


def hold(new: Floats, old: Floats, threshold: float, norm: str, dilation: int, block: int) -> Floats:
    """y_t of the hold gate in float64, position by position; maps are [C, H, W]."""
    delta = new - old
    size = np.sqrt((delta**2).mean(0)) if norm == "rms" else np.abs(delta).max(0)
    changed = size > threshold
    height, width = changed.shape
    mask = np.zeros_like(changed)
    reach = dilation // 2
    for i, j in zip(*np.nonzero(changed), strict=True):
        mask[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1] = True
    for i in range(0, height, block):
        for j in range(0, width, block):
            mask[i : i + block, j : j + block] |= mask[i : i + block, j : j + block].any()
    return np.where(mask, new, old)


def conv(x: Floats, module: nn.Conv2d) -> Floats:
    """A 3 x 3 convolution, stride 1, padding 1."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    weight, bias = module.weight.detach().double().numpy(), module.bias.detach().double().numpy()  # type: ignore[union-attr]
    result: Floats = np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]
    return result


@cache
def two_layers() -> tuple[nn.Conv2d, nn.Conv2d, Variants]:
    """Two convolutions with a ReLU between them."""
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
    return first, second, Variants(seeded(nn.Sequential(first, nn.ReLU(), second)), moving_clip(2, 9, 7, noise=0.1)[0])


@pytest.mark.parametrize("norm", ["rms", "max"])
@pytest.mark.parametrize("block", [1, 2, 4, 8])
@pytest.mark.parametrize("dilation", [1, 3])
def test_hold_is_its_formula(norm: Any, block: Any, dilation: int) -> None:
    first, second, variants = two_layers()
    clip = moving_clip(2, 9, 7, length=6, noise=0.1)
    gate = Hold(threshold=0.3, input_threshold=0.08, norm=norm, dilation=dilation)
    found = run_clip(variants.stream(gate, block=block), clip)
    example = np.maximum(conv(clip[0][0][0].double().numpy(), first), 0)
    threshold = 0.3 * np.sqrt((example**2).mean())
    x, y = clip[0][0][0].double().numpy(), example
    for (frame,), (output,) in zip(clip, found, strict=True):
        x = hold(frame[0].double().numpy(), x, 0.08, "max", dilation, block)
        y = hold(np.maximum(conv(x, first), 0), y, threshold, norm, 1, block)
        # float32 against float64 over sums of 36 terms of order 1
        np.testing.assert_allclose(output[0].numpy(), conv(y, second), atol=1e-5)


@given(samples(), st.sampled_from(["rms", "max"]), st.sampled_from([1, 2, 8]))
def test_promises_on_random_networks(sample: Sample, norm: Any, block: Any) -> None:
    gate = Hold(threshold=0.3, input_threshold=0.03, norm=norm)
    gm = stream(sample.model, sample.clip[0], gate, block=block)
    farthest = drift(gm, sample.clip)
    assert farthest is not None and farthest <= 1, "a held value drifts"
    repeated = run_clip(gm, [frames for frames in sample.clip for _ in range(2)])
    assert identical(repeated[::2], repeated[1::2]), "a still frame changes something"


@given(samples())
def test_exact_at_zero_on_random_networks(sample: Sample) -> None:
    gm = stream(sample.model, sample.clip[0], Hold(threshold=0, input_threshold=0))
    assert identical(run_clip(gm, sample.clip), run_clip(gm, sample.clip, refresh_all=True))


@given(samples())
def test_residual_updates_agree_with_recomputing_on_random_networks(sample: Sample) -> None:
    variants = Variants(sample.model, sample.clip[0])
    gate = Hold(threshold=0.3, input_threshold=0.03)
    graphs = [variants.stream(gate, update=update) for update in ("residual", "recompute")]
    for mine, theirs in zip(*(run_clip(gm, sample.clip) for gm in graphs), strict=True):
        # sums of five frames instead of one, in float32; values are of order 1 to 10
        torch.testing.assert_close(list(mine), list(theirs), rtol=1e-4, atol=1e-4)


def identical(left: list[tuple[Tensor, ...]], right: list[tuple[Tensor, ...]]) -> bool:
    """Whether all outputs are the same, bit for bit."""
    return all(all(map(torch.equal, mine, theirs)) for mine, theirs in zip(left, right, strict=True))


def test_no_drift_over_two_thousand_slow_frames() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1)))
    start, end = torch.rand(2, 1, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    length = 2000
    clip = [(start + (end - start) * time / length,) for time in range(length)]
    step = float((clip[1][0] - clip[0][0]).abs().max())
    skip = transform(model, clip[0], gate=Hold(threshold=0.02, input_threshold=0.02, dilation=1))
    assert step < skip.input_threshold / 20  # every single change is far below the threshold
    farthest = drift(skip.graph_module, clip)
    assert farthest is not None and farthest <= 1
    last, dense = run_clip(skip.graph_module, clip)[-1], run_dense(skip.program, clip[-1:])[0]
    moved = np.abs(run_dense(skip.program, clip[:1])[0][0] - dense[0]).max()
    error = np.abs(last[0].numpy() - dense[0]).max()
    # what the thresholds let through: a lost reference would leave an error as large as the whole move
    assert error < 0.1 * moved


def test_small_changes_add_up_until_they_are_let_through() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)))
    clip = [(torch.full((1, 1, 2, 2), 0.03 * time),) for time in range(7)]
    gm = stream(model, (torch.rand(1, 1, 2, 2),), Hold(threshold=0, input_threshold=0.1, dilation=1))
    outputs = torch.stack([output[0][0, 0, 0] for (output,) in run_clip(gm, clip)])
    dense = torch.stack([output[0][0, 0, 0] for (output,) in run_clip(gm, clip, refresh_all=True)])
    # 0.03 a frame passes 0.1 on the fourth frame after the last that was let through
    assert torch.equal(outputs, dense[[0, 0, 0, 0, 4, 4, 4]])


class _Twice(nn.Module):
    """A convolution that two operators read, so that its value is held as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        out: Tensor = self.second(F.relu(y)) + y[:, :2]
        return out


@pytest.mark.parametrize("update", ["recompute", "residual"])
def test_a_convolution_is_held_at_its_own_scale(update: str) -> None:
    skip = transform(seeded(_Twice()), moving_clip(2, 6, 6)[0], gate=Hold(threshold=0.5), update=update)  # type: ignore[arg-type]
    tests = skip.graph_module.graph.find_nodes(op="call_function", target=ops.changed)
    thresholds = {g.record(test).layer: test.args[2] for test in tests}
    assert thresholds["first"] == 0.5 * skip.recipe.scales["conv2d"] > 0


def test_residual_sums_take_in_what_the_gate_holds_back() -> None:
    clip = [(frame * (1 + time / 30),) for time, (frame,) in enumerate(moving_clip(2, 6, 6, length=1) * 30)]
    skip = transform(seeded(_Twice()), clip[0], gate=Hold(threshold=0.3, input_threshold=0), update="residual")
    farthest = drift(skip.graph_module, clip)
    assert farthest is not None and farthest <= 1
    error = run_clip(skip.graph_module, clip)[-1][0] - run_clip(skip.graph_module, clip, refresh_all=True)[-1][0]
    # the frames double the values; a sum that lost what was held back would be off by as much
    assert error.abs().max() < 0.5


def test_what_is_held() -> None:
    gm = stream(seeded(Branches()), branches_clip()[0], Hold())
    # materialised, read by an operator, and no resize; "sigmoid" and "head" are outputs that none reads
    assert len(held_nodes(gm)) == 5
    assert held_nodes(gm)[0] == "x"
    assert len(g.states(gm.graph)) == 5  # one per held value: it is its own reference


def test_the_output_of_an_island_is_held_as_a_whole() -> None:
    model = seeded(Squeeze())
    clip = moving_clip(3, 8, 8, noise=0.0)
    gm = stream(model, clip[0], Hold(threshold=0.5, input_threshold=0))
    scale = next(
        test
        for test in gm.graph.find_nodes(op="call_function", target=ops.changed)
        if test.args[0].name == "unsqueeze_1"
    )
    assert list(g.value(scale).shape) == [1, 1, 1, 1]
    assert drift(gm, clip) is not None


def test_threshold_of_a_layer_takes_the_place_of_the_gates() -> None:
    gm = stream(seeded(Branches()), branches_clip()[0], Hold(threshold=0.5), thresholds={"*": 0.25, "": 0.0})
    assert held_nodes(gm) == ["x"]  # activations belong to no module here: the last match, 0, wins


def test_a_value_that_is_zero_on_the_example_is_not_held() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, -1.0)
    gm = stream(model.eval(), (torch.rand(1, 1, 4, 4),), Hold(input_threshold=0.1))
    assert held_nodes(gm) == ["input_1"]  # a threshold that is a share of 0 lets every difference through
