import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from skipfx.bench.dense import ENGINES, EngineUnavailable, dense_engine, dense_worker
from skipfx.errors import UsageError

SHAPE = (1, 3, 12, 20)


class Net(nn.Module):
    """Two inputs, a batch norm to fold, and outputs in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 4, 3, stride=2, padding=1)

    def forward(self, frame: Tensor, other: Tensor) -> dict[str, Tensor | list[Tensor]]:
        features = nn.functional.silu(self.norm(self.first(frame - other)))
        return {"small": [self.second(features)], "full": features, "pooled": features.mean((2, 3))}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def frames() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random(SHAPE, np.float32), random.random(SHAPE, np.float32)


@pytest.fixture(scope="module")
def program(frames: tuple[np.ndarray, np.ndarray]) -> ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(Net().eval(), tuple(map(torch.from_numpy, frames)))


@pytest.fixture(scope="module")
def expected(program: ExportedProgram, frames: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    outputs = program.module()(*map(torch.from_numpy, frames))
    return [outputs["small"][0].detach().numpy(), outputs["full"].detach().numpy(), outputs["pooled"].detach().numpy()]


@pytest.mark.parametrize("name", ENGINES)
def test_agrees_with_the_eager_model(
    name: str, program: ExportedProgram, frames: tuple[np.ndarray, np.ndarray], expected: list[np.ndarray]
) -> None:
    try:
        engine = dense_engine(name, program, threads=1)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    assert (engine.name, engine.threads) == (name, 1)
    assert engine.version
    for _ in range(2):
        outputs = engine(*frames)
        assert len(outputs) == len(expected)
        for output, wanted in zip(outputs, expected, strict=True):
            assert output.shape == wanted.shape
            assert np.abs(output - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_leaves_the_program_as_it_is(program: ExportedProgram) -> None:
    before = {name: value.stride() for name, value in program.state_dict.items()}
    dense_engine("torch", program, threads=1)
    assert {name: value.stride() for name, value in program.state_dict.items()} == before


def test_runs_in_a_worker(program: ExportedProgram, frames: tuple[np.ndarray, np.ndarray]) -> None:
    with dense_worker("torch", program, 1, [frames, frames]) as worker:
        assert len(worker(3)) == 3


def test_refuses_an_empty_clip(program: ExportedProgram) -> None:
    with pytest.raises(UsageError, match="the clip has no frame"):
        dense_worker("torch", program, 1, [])


def test_refuses_an_unknown_engine(program: ExportedProgram) -> None:
    with pytest.raises(UsageError, match="'tensorflow' is unknown: expected one of onnxruntime, openvino, torch"):
        dense_engine("tensorflow", program, threads=1)


def test_refuses_no_threads(program: ExportedProgram) -> None:
    with pytest.raises(UsageError, match="threads must be 1 or more, got 0"):
        dense_engine("torch", program, threads=0)


def test_says_how_to_install_what_is_missing(program: ExportedProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailable, match=r'pip install "skipfx\[bench\]"'):
        dense_engine("openvino", program, threads=1)


def test_says_why_a_network_does_not_compile(program: ExportedProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*args: object, **options: object) -> None:
        raise RuntimeError("no compiler\nand many lines more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(EngineUnavailable, match="cannot run this network: no compiler; leave it out"):
        dense_engine("torch-compiled", program, threads=1)
