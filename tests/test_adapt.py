"""Models of other shapes than one float32 frame in, tensors out: what is fixed, converted, kept, or refused and why."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

from skipfx.adapt import adapt
from skipfx.build import compile_engine
from skipfx.errors import FrameError, OptionError
from skipfx.model import SkipModel
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded
from tests.runtime.check import EXACT, assert_agrees, assert_close, flat

CLIP = moving_clip(3, 9, 11)
(FRAME,) = CLIP[0]


class Scaled(nn.Module):
    """A frame, a factor, an optional per-channel shift and a number; a dict with constants in it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, factor: Tensor, shift: Tensor | None = None, power: int = 1) -> dict[str, Any]:
        y = self.body(x) * factor
        if shift is not None:
            y = y + shift
        return {"map": self.head(y**power), "none": None, "pair": (x, 3)}


@dataclass
class Pair:
    map: Tensor
    same: Tensor


pytree.register_dataclass(Pair)


def scaled_inputs(factor: float = 2.0) -> tuple[Any, ...]:
    return FRAME, torch.tensor(factor), torch.rand(1, 4, 1, 1, generator=torch.Generator().manual_seed(1)), 2


def test_inputs_that_are_no_frames_are_fixed_at_their_example_values() -> None:
    model, inputs = seeded(Scaled()), scaled_inputs()
    found = adapt(model, inputs, frames=["x"])
    assert found.notes == tuple(f"input {name} is fixed at its example value" for name in ("factor", "shift", "power"))
    for (frame,) in CLIP[:2]:
        expected, got = model(frame, *inputs[1:]), found.program.module()(frame)
        assert torch.equal(got["map"], expected["map"]) and got["none"] is None and got["pair"][1] == 3


@pytest.mark.parametrize("frames", [["x"], [0], ("x", 0), "x"])
def test_frames_are_named_or_numbered(frames: Any) -> None:
    skip = transform(seeded(Scaled()), scaled_inputs(), frames=frames, gate=EXACT)
    assert list(skip._inputs.frames) == ["x"]
    assert {layer.name for layer in skip.report.layers} >= {"body.0", "head"}


def test_a_saved_program_is_adapted_too(tmp_path: Any) -> None:
    model, inputs = seeded(Scaled()), scaled_inputs()
    torch.export.save(torch.export.export(model, inputs), tmp_path / "model.pt2")
    skip = transform(tmp_path / "model.pt2", frames=["x"], gate=EXACT)
    skip.save(tmp_path / "model.skip.pt2")
    loaded = SkipModel.load(tmp_path / "model.skip.pt2")
    assert loaded.recipe.notes == skip.recipe.notes and loaded.report == skip.report
    outputs, _ = loaded(FRAME, loaded.init_state())
    assert_close(flat(outputs["map"].detach()), flat(model(*inputs)["map"].detach()))


def test_the_engine_keeps_constants_among_the_outputs() -> None:
    skip = transform(seeded(Scaled()), scaled_inputs(), frames=["x"], gate=EXACT)
    stream = compile_engine(skip, threads=1).stream()
    outputs = stream(FRAME.numpy())
    assert list(outputs) == ["map", "none", "pair"] and outputs["none"] is None and outputs["pair"][1] == 3
    assert np.array_equal(outputs["pair"][0], FRAME.numpy())


@pytest.mark.parametrize(
    "frames, error, message",
    [
        (None, FrameError, r"input 1 is no frame.*Name those that are frames with frames=\(\.\.\.\)"),
        (["y"], OptionError, r"frames: the model has no input 'y'; it has x, factor, shift, power"),
        ([7], OptionError, "no input 7"),
        ([], OptionError, "frames: name at least one input"),
        (["x", "factor"], FrameError, "input 1 is no frame"),
    ],
)
def test_inputs_that_cannot_be_frames_are_refused(frames: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        transform(seeded(Scaled()), scaled_inputs(), frames=frames)


def test_inputs_may_be_nested() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            out: Tensor = self.conv(batch["image"]) * batch["scale"]
            return out

    found = adapt(seeded(Nested()), ({"image": FRAME, "scale": torch.tensor(3.0)},), frames=["batch_image"])
    assert [tuple(frame.shape) for frame in found.frames] == [(1, 3, 9, 11)]


def test_open_sizes_and_fixed_inputs_go_together() -> None:
    model, size = seeded(Scaled()), {2: Dim("h", min=2), 3: Dim("w", min=2)}
    program = torch.export.export(model, scaled_inputs(), dynamic_shapes=(size, None, None, None))
    small = FRAME[:, :, :6, :5]
    found = adapt(program, (small, *scaled_inputs()[1:]), frames=["x"])
    assert torch.equal(found.program.module()(small)["map"], model(small, *scaled_inputs()[1:])["map"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", ["module", "program"])
def test_other_float_types_are_computed_in_float32(dtype: torch.dtype, given: str) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x).to(dtype) * torch.tensor(0.5, dtype=dtype)
            return out

    model = seeded(Halves()).to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = torch.export.export(model, (FRAME.to(dtype),))
    skip = transform(model, (FRAME,), gate=EXACT) if given == "module" else transform(saved, gate=EXACT)
    word = str(dtype).removeprefix("torch.")
    assert f"note     weights of {word} are computed with in float32" in skip.report.summary()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    frame = FRAME if given == "module" else FRAME.to(dtype).float()
    outputs, _ = skip(frame, skip.init_state())
    assert outputs.dtype == torch.float32
    assert_close(flat(outputs.detach()), flat(model.float().get_submodule("body")(frame).detach() * 0.5))


class Odd(nn.Module):
    """Attributes called like methods of modules, a layer that runs twice, weights that are computed, shared outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = [1]  # type: ignore[assignment]
        self.passes = nn.Conv2d(3, 3, 3, padding=1)
        self.graph = parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.state = parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.passes(torch.relu(self.passes(x))))
        y = self.state(self.graph(x))
        return Pair(y, y), x


def test_odd_modules_run() -> None:
    torch.manual_seed(0)
    assert_agrees(Odd().eval(), CLIP)


def test_a_half_precision_program_with_open_sizes() -> None:
    model, size = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).half(), {2: Dim("h", min=8), 3: Dim("w", min=8)}
    program = torch.export.export(model, (FRAME.half(),), dynamic_shapes=({**size},))
    clip = moving_clip(3, 8, 10, length=3)
    skip = transform(program, (clip[0][0].half(),), gate=EXACT)
    assert "note     weights of float16 are computed with in float32" in skip.report.summary()
    assert_close(flat(compile_engine(skip).stream()(*clip[1])), flat(model.float()(*clip[1]).detach()))


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (6, 1, 7), (1, 5, 1), (6, 13, 3), (3, 31, 33), (1, 2, 65536), (1, 65600, 2), (1, 2160, 3840)],
)
def test_frames_of_any_size_and_channels(shape: tuple[int, int, int]) -> None:
    body = nn.Sequential(
        nn.Conv2d(shape[0], 5, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(5, 4, 5, padding=4, dilation=2)
    )
    assert_agrees(seeded(body), moving_clip(*shape, length=3))
