"""`SkipModel`: functional, in the model's own structure, clear about wrong input."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from skipfx.capture import capture
from skipfx.errors import FrameError
from skipfx.model import SkipModel
from skipfx.options import Gumbel, Hold, InputNorm
from skipfx.transformation import transform
from tests.networks import Branches, TwoFrames, branches_clip, moving_clip, seeded

GATE = Hold(threshold=0.2, input_threshold=0.02)


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    return transform(seeded(Branches()), branches_clip()[0], gate=GATE)


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return capture(seeded(Branches()), branches_clip()[0])


@pytest.fixture
def frame() -> Tensor:
    return branches_clip()[0][0]


def leaves(outputs: Any) -> list[Tensor]:
    return [outputs["map"], *outputs["parts"]]


@torch.no_grad()
def test_outputs_have_the_structure_and_values_of_the_model(skip: SkipModel, frame: Tensor) -> None:
    model = seeded(Branches())
    outputs, state = skip(frame, skip.init_state(), refresh=True)
    assert list(outputs) == ["map", "parts"] and isinstance(outputs["parts"], list)
    # batch-norm folding reorders float32 arithmetic
    torch.testing.assert_close(leaves(outputs), leaves(model(frame)), rtol=1e-5, atol=1e-5)
    assert sorted(state) == ["fresh", *(f"state_{index:03d}" for index in range(5))]


@torch.no_grad()
def test_the_first_frame_is_a_refresh_by_itself(skip: SkipModel, frame: Tensor) -> None:
    by_itself, state = skip(frame, skip.init_state())
    asked, _ = skip(frame, skip.init_state(), refresh=True)
    assert all(map(torch.equal, leaves(by_itself), leaves(asked)))
    assert not state["fresh"].any()


@torch.no_grad()
def test_later_frames_are_no_refresh_unless_asked(skip: SkipModel, frame: Tensor) -> None:
    _, state = skip(frame, skip.init_state())
    moved = frame + 0.01  # below the threshold of the input
    held, _ = skip(moved, state)
    assert all(map(torch.equal, leaves(held), leaves(skip(frame, state)[0])))
    for refresh in (True, torch.tensor(True), torch.tensor([True])):
        opened, _ = skip(moved, state, refresh=refresh)
        assert all(map(torch.equal, leaves(opened), leaves(skip(moved, skip.init_state())[0])))


@torch.no_grad()
@pytest.mark.parametrize("gate", [GATE, InputNorm(eps=0.01, reference="previous")])
def test_inputs_are_not_written_to_and_share_no_memory_with_results(program: ExportedProgram, gate: Any) -> None:
    skip, clip = transform(program, gate=gate), branches_clip()
    _, state = skip(*clip[0], skip.init_state())
    frame, before = clip[1][0], {name: tensor.clone() for name, tensor in state.items()}
    kept = frame.clone()
    outputs, following = skip(frame, state)
    assert torch.equal(frame, kept) and all(torch.equal(state[name], before[name]) for name in state)
    memory = [tensor.data_ptr() for tensor in (frame, *state.values(), *leaves(outputs), *following.values())]
    assert len(set(memory)) == len(memory)


@torch.no_grad()
@pytest.mark.parametrize("gate", [GATE, InputNorm(eps=0.01)])
def test_a_batch_is_streams_in_lock_step(program: ExportedProgram, gate: Any) -> None:
    skip = transform(program, gate=gate)
    clips = [moving_clip(3, 12, 16, seed=seed, length=4) for seed in (0, 1, 2)]
    batch = skip.init_state(batch=3)
    single = [skip.init_state() for _ in clips]
    for time in range(4):
        outputs, batch = skip(
            torch.cat([clip[time][0] for clip in clips]), batch, refresh=torch.tensor([time == 2, False, False])
        )
        for index, clip in enumerate(clips):
            alone, single[index] = skip(clip[time][0], single[index], refresh=time == 2 and index == 0)
            mine = [leaf[index : index + 1] for leaf in leaves(outputs)]
            assert all(map(torch.equal, mine, leaves(alone)))


@torch.no_grad()
def test_several_inputs_and_an_output_without_a_batch_dimension() -> None:
    model = seeded(TwoFrames())
    image, depth = moving_clip(3, 8, 10)[0][0], moving_clip(1, 4, 5)[0][0]
    skip = transform(model, (image, depth), gate=GATE)
    (total, mean), _ = skip(image, depth, skip.init_state())
    torch.testing.assert_close([total, mean], list(model(image, depth)), rtol=1e-5, atol=1e-5)
    (totals, means), _ = skip(image.repeat(2, 1, 1, 1), depth.repeat(2, 1, 1, 1), skip.init_state(2))
    assert totals.shape == (2, 4, 4, 5) and torch.equal(means, torch.stack([mean, mean]))


class _Echo(nn.Module):
    """Returns a part of its input beside the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), x[0]


@pytest.mark.parametrize("gate", [GATE, Gumbel()], ids=["hold", "gumbel"])
def test_a_copy_computes_the_same_and_has_its_own_parameters(
    program: ExportedProgram, frame: Tensor, gate: Any
) -> None:
    skip = transform(program, gate=gate)
    twin = copy.deepcopy(skip.train())
    assert twin.training
    before = [parameter.clone() for parameter in skip.graph_module.parameters()]
    with torch.no_grad():
        torch.testing.assert_close(twin(frame, twin.init_state()), skip(frame, skip.init_state()), rtol=0, atol=0)
        for parameter in twin.graph_module.parameters():
            parameter.add_(1)
    assert all(map(torch.equal, before, skip.graph_module.parameters()))


@torch.no_grad()
def test_an_output_that_is_a_view_of_the_frame_is_copied(frame: Tensor) -> None:
    skip = transform(_Echo(), (frame,), gate=InputNorm(eps=0.1))
    (_, echo), _ = skip(frame, skip.init_state())
    assert torch.equal(echo, frame[0]) and echo.data_ptr() != frame.data_ptr()


def test_gradients_reach_frames_states_and_folded_parameters(skip: SkipModel, frame: Tensor) -> None:
    _, state = skip(frame, skip.init_state())
    state = {name: tensor.detach().requires_grad_(tensor.is_floating_point()) for name, tensor in state.items()}
    moved = (frame + torch.rand_like(frame) * (torch.arange(16) < 8)).requires_grad_()
    for _ in range(2):  # twice: nothing of the graph is shared between calls
        torch.cat([leaf.flatten() for leaf in leaves(skip(moved, state)[0])]).sum().backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None and moved.grad.abs().sum() > 0
    # positions that did not change take their value from the state, so the gradient goes there
    assert any(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in state.values())
    weights = dict(skip.graph_module.named_parameters())
    assert weights["stem_folded_weight"].grad is not None
    skip.zero_grad()


BAD_FRAMES: dict[str, tuple[Any, str]] = {
    "no tensor": ([[1.0]], "x: expected a float32 tensor .B, 3, 12, 16. on cpu, got list"),
    "NumPy": (torch.zeros(1, 3, 12, 16).numpy(), "got ndarray"),
    "bytes": (torch.zeros(1, 3, 12, 16, dtype=torch.uint8), "got torch.uint8"),
    "double": (torch.zeros(1, 3, 12, 16).double(), "got torch.float64"),
    "rank": (torch.zeros(3, 12, 16), r"expected a float32 tensor \[B, 3, 12, 16\].* got torch.float32 \[3, 12, 16\]"),
    "no rank": (torch.tensor(1.0), r"got torch.float32 \[\]"),
    "channels": (torch.zeros(1, 4, 12, 16), r"got torch.float32 \[1, 4, 12, 16\]"),
    "size": (torch.zeros(1, 3, 12, 17), r"got torch.float32 \[1, 3, 12, 17\]"),
    "empty batch": (torch.zeros(0, 3, 12, 16), r"got torch.float32 \[0, 3, 12, 16\]"),
    "NaN": (torch.full((1, 3, 12, 16), float("nan")), "of finite values, got NaN or infinity"),
    "infinity": (torch.full((1, 3, 12, 16), float("inf")), "of finite values, got NaN or infinity"),
    "device": (torch.zeros(1, 3, 12, 16, device="meta"), "on cpu, got .* on meta"),
    "batch of another size": (
        torch.zeros(2, 3, 12, 16),
        r"state fresh: expected torch.bool \[2\] on cpu for a batch of 2",
    ),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_wrong_frame_is_refused(skip: SkipModel, name: str) -> None:
    wrong, message = BAD_FRAMES[name]
    with pytest.raises(FrameError, match=message):
        skip(wrong, skip.init_state())


BAD_STATES: dict[str, tuple[Any, str]] = {
    "none": (None, "expected the state as the last argument, got NoneType: make one with init_state"),
    "a tensor": (torch.zeros(1), r"expected the state as the last argument, got torch.float32 \[1\]"),
    "a missing entry": ({"state_001": None}, "it differs in state_001"),
    "an entry too many": ({"state_999": torch.zeros(1)}, "it differs in state_999"),
    "a wrong shape": ({"state_000": torch.zeros(1, 3, 1, 1)}, r"state_000: expected torch.float32 \[1, 3, 12, 16\]"),
    "a wrong type": ({"state_000": torch.zeros(1, 3, 12, 16).double()}, "state_000: .* got torch.float64"),
    "no tensor": ({"fresh": True}, "state fresh: expected torch.bool .* got bool"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_wrong_state_is_refused(skip: SkipModel, frame: Tensor, name: str) -> None:
    change, message = BAD_STATES[name]
    wrong = change
    if isinstance(change, dict):
        wrong = {**skip.init_state(), **change}
        wrong = {key: value for key, value in wrong.items() if value is not None}
    with pytest.raises(FrameError, match=message):
        skip(frame, wrong)


@pytest.mark.parametrize("refresh", [1, None, torch.tensor(1.0), torch.tensor([True, False])])
def test_a_wrong_refresh_is_refused(skip: SkipModel, frame: Tensor, refresh: Any) -> None:
    with pytest.raises(FrameError, match=r"refresh: expected a bool, or a bool tensor \[\] or \[1\]"):
        skip(frame, skip.init_state(), refresh=refresh)


def test_wrong_numbers_of_arguments_are_refused(skip: SkipModel, frame: Tensor) -> None:
    with pytest.raises(FrameError, match=r"expected 1 frame\(s\) \(x\) and then the state, got 0"):
        skip()
    with pytest.raises(FrameError, match="got 2 before the last argument"):
        skip(frame, frame, skip.init_state())
    with pytest.raises(FrameError, match="expected at least one stream, got 0"):
        skip.init_state(batch=0)


def test_two_inputs_must_have_the_same_batch() -> None:
    image, depth = moving_clip(3, 8, 10)[0][0], moving_clip(1, 4, 5)[0][0]
    skip = transform(seeded(TwoFrames()), (image, depth), gate=GATE)
    with pytest.raises(FrameError, match=r"depth: .* the same B for every frame"):
        skip(image, depth.repeat(2, 1, 1, 1), skip.init_state())


def test_printing_a_model_tells_what_it_is(skip: SkipModel) -> None:
    text = repr(skip)
    assert text == f"SkipModel\n{skip.report.summary()}"
    assert "hold(threshold=0.2" in text and "4 convolutions" in text and len(text.splitlines()) < 25


def test_a_model_moves_between_devices(program: ExportedProgram) -> None:
    skip = transform(program, gate=GATE).to("meta")
    assert isinstance(skip, nn.Module) and skip.init_state()["state_000"].device.type == "meta"
    with pytest.raises(FrameError, match=r"on meta, got .* on cpu"):
        skip(branches_clip()[0][0], skip.init_state())
