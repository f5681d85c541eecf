"""A tiny model and clip on disk, and the command line as a function."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from skipfx.cli import main

HEIGHT, WIDTH, LENGTH = 32, 48, 6


class Tiny(nn.Module):
    """Two convolutions with names."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.first(x)))
        return y


def tiny(channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Tiny(channels).eval()


def save_program(module: nn.Module, path: Path, *frames: Tensor) -> Path:
    torch.export.save(torch.export.export(module, frames), path)
    return path


@dataclass(frozen=True)
class Files:
    """A model at every step of the way, and a clip."""

    model: Path
    skip: Path
    engine: Path
    clip: Path


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


def call(*words: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return int(done.value.code or 0)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: object) -> Result:
        code = call(*words)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def pictures(length: int = LENGTH) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """A square that moves over a still picture."""
    still = np.random.default_rng(0).integers(0, 200, (HEIGHT, WIDTH, 3), np.uint8)
    clip = []
    for index in range(length):
        picture = still.copy()
        picture[10:16, 4 * index : 4 * index + 6] = 255
        clip.append(picture)
    return clip


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("with a space")
    found = Files(folder / "tiny net.pt2", folder / "tiny net.skip.pt2", folder / "tiny net.skipfx", folder / "a clip")
    found.clip.mkdir()
    for index, picture in enumerate(pictures()):
        Image.fromarray(picture).save(found.clip / f"{index}.png")
    save_program(tiny(), found.model, torch.zeros(1, 3, HEIGHT, WIDTH))
    assert call("transform", found.model, "-o", found.skip, "--example", found.clip, "--quiet") == 0
    assert call("compile", found.skip, "-o", found.engine, "--quiet") == 0
    return found
