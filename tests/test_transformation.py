"""`transform` and `inspect`: scales, thresholds, examples that tell nothing, and options that match nothing."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from skipfx import graph as g
from skipfx import ops
from skipfx.capture import capture
from skipfx.errors import FrameError, OptionError
from skipfx.options import Hold, InputNorm, TransformOptions
from skipfx.passes import pipeline
from skipfx.recipe import classify
from skipfx.transformation import inspect, measure, transform
from tests.networks import Branches, TwoFrames, branches_clip, moving_clip, seeded

FRAME = branches_clip()[0]


def thresholds(gm: fx.GraphModule) -> list[float]:
    """The thresholds of all holds, in order."""
    found = [test.args[2] for test in gm.graph.find_nodes(op="call_function", target=ops.changed)]
    return [float(value) for value in found]


def test_scales_are_the_rms_of_every_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    scales = measure(classify(capture(model, FRAME)), FRAME)
    values = [model[0](*FRAME), model[:2](*FRAME), model(*FRAME)]
    expected = [float(value.detach().square().mean().sqrt()) for value in (*FRAME, *values)]
    assert list(scales) == ["input_1", "conv2d", "relu", "conv2d_1"]
    assert list(scales.values()) == pytest.approx(expected, rel=1e-6)


def test_thresholds_are_shares_of_the_scales() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    skip = transform(model, FRAME, gate=Hold(threshold=0.25, input_threshold=0.5))
    assert thresholds(skip.graph_module) == [0.5, 0.25 * skip.recipe.scales["relu"]]


def test_the_input_threshold_is_a_share_of_the_range_by_default() -> None:
    frame = torch.rand(1, 3, 12, 16) * 200 - 50
    skip = transform(seeded(Branches()), (frame,))
    assert skip.input_threshold == pytest.approx(0.05 * float(frame.max() - frame.min()))


def test_the_smallest_range_of_several_inputs_counts() -> None:
    image, depth = moving_clip(3, 8, 10)[0][0] * 255, moving_clip(1, 4, 5)[0][0]
    skip = transform(seeded(TwoFrames()), (image, depth))
    assert skip.input_threshold == pytest.approx(0.05 * float(depth.max() - depth.min()))


def test_a_constant_example_has_no_range() -> None:
    with pytest.raises(FrameError, match=r"the example frame is constant.*or set input_threshold"):
        transform(seeded(Branches()), (torch.zeros(1, 3, 12, 16),))


def test_a_constant_example_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="the example frame is constant"):
        transform(seeded(Branches()), (torch.zeros(1, 3, 12, 16),), gate=Hold(input_threshold=0.1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("gate", [InputNorm(eps=0.1), Hold(threshold=0, input_threshold=0.1)])
def test_gates_that_need_no_scale_take_a_constant_example(gate: Any) -> None:
    assert transform(seeded(Branches()), (torch.zeros(1, 3, 12, 16),), gate=gate).report.sparse_convs == 4


def test_inspect_takes_any_example() -> None:
    zeros = inspect(seeded(Branches()), (torch.zeros(1, 3, 12, 16),))
    assert zeros == inspect(seeded(Branches()), FRAME)


def test_values_that_are_not_finite_are_named() -> None:
    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x) / (x[:, :1] * 0)
            return out

    with pytest.raises(FrameError, match=r"the value of .* \(div\) is NaN or infinite on the example frame"):
        transform(seeded(Divides()), FRAME)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"exclude": ("sten",)}, "exclude: 'sten' matches no module; there are body, down, head, stem"),
        ({"thresholds": {"sten.*": 0.1}}, r"thresholds: 'sten.\*' matches no module"),
        ({"block": 3}, "block: "),
        ({"update": "twice"}, "update: "),
        ({"gate": "hold"}, "gate: "),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        transform(seeded(Branches()), FRAME, **options)


def test_the_last_threshold_that_matches_wins() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    skip = transform(model, FRAME, thresholds={"1": 0.5, "*": 0.25})
    assert thresholds(skip.graph_module)[1] == 0.25 * skip.recipe.scales["relu"]


@pytest.mark.parametrize("name", ["whole.stem", "whole.act", "whole"])
def test_a_convolution_and_its_activation_go_by_all_of_their_names(name: str) -> None:
    inner = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3), act=nn.ReLU(), last=nn.Conv2d(4, 2, 1)))
    skip = transform(seeded(nn.Sequential(OrderedDict(whole=inner))), FRAME, thresholds={name: 0.5})
    assert thresholds(skip.graph_module)[1] == 0.5 * skip.recipe.scales["relu"]


def test_a_transformation_is_deterministic() -> None:
    texts = [g.text(transform(seeded(Branches()), FRAME).graph_module) for _ in range(2)]
    assert texts[0] == texts[1]


def test_the_model_is_left_as_it_was() -> None:
    model = seeded(Branches())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    transform(model, FRAME)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_pass_is_observed() -> None:
    names: list[str] = []
    transform(seeded(Branches()), FRAME, observe=lambda step, gm, modified, seconds: names.append(step.name))
    assert names[0] == "remove_identity" and names[-1] == "merge_states" and len(set(names)) == len(names)
    assert len(names) == len(
        pipeline.canonical() + pipeline.partition() + pipeline.streaming(TransformOptions(gate=Hold()), 0)
    )
