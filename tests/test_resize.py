"""One model, several sizes: captured again where that is possible, refused with the reason where a size is built in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from skipfx import Engines
from skipfx.build import compile_engine
from skipfx.errors import ArtifactError, CaptureError, FrameError, OptionError
from skipfx.model import SkipModel
from skipfx.transformation import transform
from tests.networks import TwoFrames, moving_clip, seeded
from tests.runtime.check import EXACT, assert_close, flat

SIZES = [(8, 10), (11, 7)]
((FRAME,), *_) = moving_clip(3, 8, 10)


class Resizes(nn.Module):
    """Pools, resizes by a factor, and brings the result to the size of the frame where `fits`."""

    def __init__(self, fits: bool) -> None:
        super().__init__()
        self.conv, self.head, self.fits = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), fits

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(F.max_pool2d(F.relu(self.conv(x)), 2), scale_factor=2)
        if self.fits:
            y = F.interpolate(y, size=x.shape[2:], mode="bilinear")
        out: Tensor = self.head(y)
        return out


class Flattens(Resizes):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(2)


class Counts(Resizes):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.arange(10.0)


def check(skip: SkipModel, model: nn.Module) -> Engines:
    """Engines at all sizes give what the model gives."""
    engines = compile_engine(skip, sizes=SIZES, threads=1)
    for height, width in SIZES:
        stream = engines[height, width].stream()
        for frames in moving_clip(3, height, width, length=3):
            assert_close(flat(stream(*frames)), flat(model(*frames).detach()))
    return engines


@pytest.mark.parametrize("fits", [False, True])
def test_a_module_is_captured_again(fits: bool) -> None:
    model = seeded(Resizes(fits))
    engines = check(transform(model, (FRAME,), gate=EXACT), model)
    assert list(engines) == SIZES and len(engines) == 2


def test_a_program_with_open_sizes_is_captured_again() -> None:
    model = seeded(Resizes(True))
    size = {2: Dim("h", min=4, max=64), 3: Dim("w", min=4, max=64)}
    program = torch.export.export(model, (FRAME,), dynamic_shapes=(size,))
    check(transform(program, (FRAME,), gate=EXACT), model)


def test_a_saved_model_is_followed_at_the_new_size(tmp_path: Path) -> None:
    model = seeded(Resizes(False))
    transform(model, (FRAME,), gate=EXACT).save(tmp_path / "model.skip.pt2")
    skip = SkipModel.load(tmp_path / "model.skip.pt2")
    check(skip, model)
    assert skip.at_size((5, 4)).report.layers[0].name == "conv"


@pytest.mark.parametrize(
    "model, message",
    [
        (Resizes(True), r"built into the model|built into upsample_bilinear2d.*: to \[8, 10\]"),
        (Flattens(False), r"built into .*: to \[1, 2, 80\]"),
        (Counts(False), r"built into .*: a constant of a fixed size"),
    ],
)
def test_a_size_that_is_built_in_is_refused(model: nn.Module, message: str) -> None:
    skip = transform(torch.export.export(seeded(model), (FRAME,)), gate=EXACT)
    with pytest.raises(CaptureError, match=f"saved for one size, which is {message}.*transform the module itself"):
        compile_engine(skip, sizes=SIZES)


def test_thresholds_weights_and_scales_stay() -> None:
    skip = transform(seeded(Resizes(False)), (FRAME,))
    with torch.no_grad():
        for parameter in skip.graph_module.parameters():
            parameter.mul_(2)
    other = skip.at_size((12, 6))
    assert other.recipe == skip.recipe
    assert all(map(torch.equal, other.graph_module.parameters(), skip.graph_module.parameters()))


def test_fixed_inputs_stay_at_another_size() -> None:
    class Scaled(Resizes):
        def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
            assert factor is not None
            return super().forward(x * factor)

    model, factor = seeded(Scaled(False)), torch.tensor(0.5)
    other = transform(model, (FRAME, factor), frames=["x"], gate=EXACT).at_size((6, 12))
    ((frame,), *_) = moving_clip(3, 6, 12)
    outputs, _ = other(frame, other.init_state())
    assert_close(flat(outputs.detach()), flat(model(frame, factor).detach()))


def test_models_of_several_frames_are_refused() -> None:
    frames = moving_clip(3, 8, 10)[0] + moving_clip(1, 4, 5)[0]
    with pytest.raises(OptionError, match="sizes: the model takes several frames"):
        compile_engine(transform(seeded(TwoFrames()), frames), sizes=SIZES)


@pytest.fixture(scope="module")
def engines() -> Engines:
    return compile_engine(transform(seeded(Resizes(False)), (FRAME,), gate=EXACT), sizes=SIZES, threads=1)


def test_another_size_says_how_to_compile_for_it(engines: Engines) -> None:
    assert (5, 5) not in engines and (8, 10) in engines
    with pytest.raises(OptionError, match=r"no engine for frames of 5x5, only for 8x10, 11x7: compile with sizes="):
        engines[5, 5]
    with pytest.raises(FrameError, match=r"for several at once with sizes=\[\.\.\.\]"):
        engines[8, 10].stream()(np.zeros((1, 3, 5, 5), np.float32))


def test_engines_are_saved_as_artifacts_that_stand_alone(engines: Engines, tmp_path: Path) -> None:
    engines.save(tmp_path / "net")
    loaded = Engines.load(tmp_path / "net", threads=1)
    assert set(loaded) == set(SIZES)
    frame: Any = FRAME.numpy()
    assert np.array_equal(loaded[8, 10].stream()(frame), engines[8, 10].stream()(frame))
    with pytest.raises(ArtifactError, match="exists"):
        engines.save(tmp_path / "net")
    engines.save(tmp_path / "net", overwrite=True)
    with pytest.raises(ArtifactError, match="holds no artifacts"):
        Engines.load(tmp_path)
