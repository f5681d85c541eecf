"""From what the user has to a graph: modules, programs, files; and what is refused, with the remedy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from skipfx import graph as g
from skipfx.capture import capture, example_frames, stream_graph
from skipfx.errors import ArtifactError, CaptureError, FrameError, NothingToTransform
from skipfx.testing import run_dense
from skipfx.transformation import transform
from tests.networks import Branches, seeded

FRAME = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    """A convolution behind `function`; a class of its own so that it pickles."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x).relu()
        return out


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return torch.export.export(seeded(Named()), (FRAME,))


def same(program: ExportedProgram, model: nn.Module) -> bool:
    """Whether the captured program computes the model, bit for bit."""
    return bool((run_dense(program, [(FRAME,)])[0][0] == model(FRAME).detach().numpy()).all())


def test_a_module_is_captured_in_inference_form_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    statistics = model[1].get_buffer("running_mean").clone()
    captured = capture(model, (FRAME,))
    assert model.training and torch.equal(model[1].get_buffer("running_mean"), statistics)
    assert same(captured, model.eval())


def test_a_program_is_taken_as_it_is(program: ExportedProgram) -> None:
    assert capture(program) is program


def test_a_file_with_sample_inputs_needs_no_frames(program: ExportedProgram, tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "my model.pt2"
    path.parent.mkdir()
    torch.export.save(program, path)
    for given in (path, str(path)):
        captured = capture(given)
        assert same(captured, seeded(Named()))
        assert torch.equal(example_frames(captured, None)[0], FRAME)


def test_open_sizes_are_fixed_by_the_example() -> None:
    batch = torch.rand(2, 3, 12, 16)
    shapes: Any = ({0: Dim("batch"), 2: Dim("height", min=4), 3: Dim("width", min=4)},)
    open_program = torch.export.export(seeded(Named()), (batch,), dynamic_shapes=shapes)
    captured = capture(open_program, (FRAME,))
    assert same(captured, seeded(Named()))
    assert [g.record(n).layer for n in stream_graph(captured).graph.nodes if "conv2d" in n.name] == ["conv"]
    with pytest.raises(FrameError, match=r"a batch of one frame, got a batch of 2"):
        transform(open_program)


def test_a_pickled_module_needs_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(seeded(Named()), path)
    with pytest.raises(ArtifactError, match="pass --trust-pickle"):
        capture(path, (FRAME,))
    assert same(capture(path, (FRAME,), trust_pickle=True), seeded(Named()))


@pytest.mark.parametrize("content, message", [({"weight": torch.zeros(1)}, "holds dict"), (3, "holds int")])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ArtifactError, match=message):
        capture(tmp_path / "weights.pth", (FRAME,), trust_pickle=True)


def test_missing_and_damaged_files_are_named(program: ExportedProgram, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone\.pt2: no such file"):
        capture(tmp_path / "gone.pt2")
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"model\.pt2: not a readable torch.export file"):
        capture(path)
    (tmp_path / "model.pth").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="cannot be unpickled"):
        capture(tmp_path / "model.pth", (FRAME,), trust_pickle=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_the_remedy(tmp_path: Path) -> None:
    scripted = torch.jit.trace(seeded(Named()), FRAME)  # type: ignore[no-untyped-call]
    with pytest.raises(CaptureError, match=r"TorchScript cannot be captured: load the original nn.Module"):
        capture(scripted, (FRAME,))
    torch.jit.save(scripted, tmp_path / "model.pth")
    with pytest.raises(CaptureError, match="TorchScript cannot be captured"):
        capture(tmp_path / "model.pth", (FRAME,), trust_pickle=True)


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"expected a torch.nn.Module, an ExportedProgram or a path, got dict"):
        capture({}, (FRAME,))  # type: ignore[arg-type]


class _Depends(Named):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class _Counts(Named):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return super().forward(x) + self.count


class _WritesInput(Named):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return super().forward(x)


class _Constant(Named):
    def forward(self, x: Tensor) -> Any:
        return {"number": 3}


class _Number(Named):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x.sum().item()


class _Branches(Named):
    def forward(self, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: self.conv(x), lambda x: self.conv(x) * 2, (x,))


@pytest.mark.parametrize(
    "model, message",
    [
        (_Depends, r"(?s)torch.export cannot capture _Depends: Could not guard on data-dependent.*must move out"),
        (_Counts, r"writes to its own buffers or inputs \(count\)"),
        (_WritesInput, r"writes to its own buffers or inputs \(x\)"),
        (_Constant, "returns numbers that depend on the frame, or no tensor"),
        (_Number, "returns numbers that depend on the frame, or no tensor"),
        (_Branches, "the model calls cond, which is no operator on tensors"),
    ],
)
def test_what_cannot_be_a_stream_is_refused_with_the_reason(model: type[nn.Module], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        stream_graph(capture(model(), (FRAME,)))


def test_a_module_needs_an_example() -> None:
    with pytest.raises(FrameError, match="example inputs are needed"):
        capture(Named())


BAD_EXAMPLES: dict[str, tuple[tuple[Any, ...], str]] = {
    "too many": ((FRAME, FRAME), "takes 1 inputs, got 2"),
    "a vector": (
        (torch.rand(3),),
        r"input 0 is no frame: expected a float32 tensor \[1, C, H, W\], got torch.float32 \[3\]",
    ),
    "integers": ((torch.zeros(1, 3, 12, 16, dtype=torch.int32),), "got torch.int32"),
    "double": ((FRAME.double(),), "got torch.float64"),
    "no tensor": ((3.0,), "got float"),
    "a batch": ((FRAME.repeat(2, 1, 1, 1),), "a batch of one frame, got a batch of 2"),
    "another size": ((torch.rand(1, 3, 12, 17),), r"saved for \[1, 3, 12, 16\], got \[1, 3, 12, 17\]"),
    "NaN": ((FRAME * float("nan"),), "the example holds NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD_EXAMPLES)
def test_a_wrong_example_is_refused(program: ExportedProgram, name: str) -> None:
    frames, message = BAD_EXAMPLES[name]
    with pytest.raises(FrameError, match=message):
        example_frames(program, frames)


def test_a_program_without_sample_inputs_needs_frames(program: ExportedProgram) -> None:
    bare = torch.export.export(seeded(Named()), (FRAME,))
    bare._example_inputs = None
    with pytest.raises(FrameError, match="saved without sample inputs"):
        example_frames(bare, None)


def test_a_model_with_nothing_to_skip_says_so() -> None:
    with pytest.raises(NothingToTransform, match=r"(?s)nothing to skip:.*a linear layer over something else") as caught:
        transform(nn.Sequential(nn.Flatten(), nn.Linear(576, 2)), (FRAME,))
    assert caught.value.exit_code == 4


def test_a_stream_graph_starts_without_states() -> None:
    gm = stream_graph(capture(seeded(Branches()), (FRAME,)))
    outputs, states = gm(FRAME, torch.tensor(True))
    assert len(outputs) == 2 and states == ()
    assert [node.name for node in g.frames(gm.graph)] == ["x"] and g.refresh(gm.graph).name == "refresh"
