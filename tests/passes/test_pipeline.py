"""Every pass, one by one: the graph still runs on a clip, agrees with the graph before, and tells the truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from torch import Tensor, fx, nn

from skipfx import graph as g
from skipfx.capture import capture, stream_graph
from skipfx.errors import InternalError, NothingToTransform
from skipfx.options import DynConv, Gate, Gumbel, Hold, InputNorm, OutputNorm, TransformOptions
from skipfx.passes import pipeline
from skipfx.passes.base import Pass, run_passes
from skipfx.spec import Stage, verify
from skipfx.testing import run_clip
from skipfx.transformation import measure
from tests.networks import Branches, Frames, Squeeze, TwoFrames, branches_clip, moving_clip, seeded
from tests.strategies import Sample, samples

# folding and residual sums reorder float32 arithmetic; values are of the order of 1
TOLERANCE = 1e-4
# gates and the shape of their masks decide what is computed; behind a norm gate, which loses residuals, so does the
# choice between a sum of residuals and the plain operator
CHOOSING = ("insert_gates", "build_block_masks")
GATES: list[Gate] = [
    Hold(threshold=0.2, input_threshold=0.02),
    Hold(threshold=0.0, input_threshold=0.0),
    InputNorm(eps=0.02),
    InputNorm(eps=0.02, p=2, reference="previous"),
    OutputNorm(eps=0.05),
    Gumbel(),
    DynConv(target=0.5, squeeze=True, hold=Hold(threshold=0.2, input_threshold=0.02)),
]


def assert_close(left: Sequence[Sequence[Tensor]], right: Sequence[Sequence[Tensor]]) -> None:
    for mine, theirs in zip(left, right, strict=True):
        torch.testing.assert_close(list(mine), list(theirs), rtol=TOLERANCE, atol=TOLERANCE)


def step_through(model: nn.Module, clip: list[Frames], options: TransformOptions) -> None:
    """Runs the pipeline pass by pass and checks each."""
    gm = stream_graph(capture(model, clip[0]))
    gm.graph.eliminate_dead_code()
    for passes in (pipeline.canonical(), pipeline.partition(options.exclude)):
        for step in passes:
            check_pass(gm, step, clip)
    for name, scale in measure(gm, clip[0]).items():
        next(g.record(node) for node in gm.graph.nodes if node.name == name).scale = scale
    for step in pipeline.streaming(options, 0.02):
        check_pass(gm, step, clip, CHOOSING if options.hold is not None else (*CHOOSING, "recompute_updates"))


def check_pass(gm: fx.GraphModule, step: Pass, clip: list[Frames], choosing: Collection[str] = ()) -> None:
    """Checks a pass; those named in `choosing` decide what is computed, so they agree on refreshed frames alone."""
    text, dense = g.text(gm), run_clip(gm, clip, refresh_all=True)
    stream = None if step.name in choosing else run_clip(gm, clip)
    modified: list[bool] = []
    run_passes(gm, [step], lambda _pass, _gm, changed, _seconds: modified.append(changed))
    assert modified == [text != g.text(gm)], f"{step.name} says modified={modified[0]}"
    verify(gm, step.stage)
    assert_close(run_clip(gm, clip, refresh_all=True), dense)
    if stream is not None:
        assert_close(run_clip(gm, clip), stream)


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("block", [1, 4])
def test_every_pass_agrees_on_a_clip(gate: Gate, block: Any) -> None:
    step_through(seeded(Branches()), branches_clip(), TransformOptions(gate=gate, block=block))


@pytest.mark.parametrize("gate", [GATES[0], GATES[3]], ids=str)
def test_every_pass_agrees_in_residual_form(gate: Gate) -> None:
    step_through(seeded(Branches()), branches_clip(), TransformOptions(gate=gate, update="residual"))


def test_every_pass_agrees_around_an_island() -> None:
    step_through(seeded(Squeeze()), moving_clip(3, 9, 11), TransformOptions(gate=GATES[0]))


def _joined(left: Frames, right: Frames) -> Frames:
    return left + right


def test_every_pass_agrees_with_two_inputs() -> None:
    clip = list(map(_joined, moving_clip(3, 8, 10), moving_clip(1, 4, 5)))
    step_through(seeded(TwoFrames()), clip, TransformOptions(gate=GATES[0]))


@given(samples())
def test_every_pass_agrees_on_random_networks(sample: Sample) -> None:
    step_through(sample.model, sample.clip, TransformOptions(gate=Hold(threshold=0.3, input_threshold=0.02), block=2))


def test_the_observer_sees_every_pass_in_order() -> None:
    seen: list[tuple[str, bool]] = []
    steps = pipeline.canonical()
    gm = stream_graph(capture(seeded(Branches()), branches_clip()[0]))
    run_passes(gm, steps, lambda step, _gm, modified, seconds: seen.append((step.name, seconds >= 0)))
    assert seen == [(step.name, True) for step in steps]


@dataclass(frozen=True)
class _Failing(Pass):
    error: Exception

    name: ClassVar[str] = "failing"
    stage: ClassVar[Stage] = Stage.CAPTURED

    def apply(self, gm: fx.GraphModule) -> bool:
        raise self.error


@dataclass(frozen=True)
class _Mutating(Pass):
    name: ClassVar[str] = "mutating"
    stage: ClassVar[Stage] = Stage.CAPTURED

    def apply(self, gm: fx.GraphModule) -> bool:
        frame = g.frames(gm.graph)[0]
        with gm.graph.inserting_before(gm.graph.output_node()):
            g.set_outputs(gm.graph, (gm.graph.call_function(torch.ops.aten.relu_.default, (frame,)),), ())
        return True


def test_a_failing_pass_is_named_with_those_before_it() -> None:
    gm = stream_graph(capture(seeded(Branches()), branches_clip()[0]))
    with pytest.raises(InternalError, match="pass failing failed after remove_identity: 'oops'"):
        run_passes(gm, [pipeline.canonical()[0], _Failing(KeyError("oops"))])


def test_what_a_pass_says_of_the_model_reaches_the_user() -> None:
    gm = stream_graph(capture(seeded(Branches()), branches_clip()[0]))
    with pytest.raises(NothingToTransform, match="nothing"):
        run_passes(gm, [_Failing(NothingToTransform("nothing"))])


def test_an_illegal_graph_is_caught_after_the_pass_that_made_it() -> None:
    gm = stream_graph(capture(seeded(Branches()), branches_clip()[0]))
    with pytest.raises(InternalError, match="no operator writes to its inputs"):
        run_passes(gm, [_Mutating()])


def test_an_unclassified_graph_is_no_classified_graph() -> None:
    gm = stream_graph(capture(seeded(Branches()), branches_clip()[0]))
    verify(gm, Stage.CAPTURED)
    with pytest.raises(InternalError, match="every node has a role"):
        verify(gm, Stage.CLASSIFIED)
