"""Models of other shapes on the command line: inputs that are no frames, cuts, several sizes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skipfx.model import SkipModel
from skipfx.runtime.artifact import load
from tests.cli.conftest import HEIGHT, WIDTH, Cli, Files, save_program


class Weighted(nn.Module):
    """A picture, a weight for it, and a dense end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = self.head(self.first(image * weight)).flatten(2).sort().values
        return out


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weighted") / "model.pt2"
    return save_program(Weighted().eval(), path, torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor(0.5))


def test_inspect_names_inputs_and_ends(cli: Cli, weighted: Path) -> None:
    refused = cli("inspect", weighted)
    assert refused.code == 2 and "Name those that are frames with frames=(...) (--frame NAME)" in refused.err
    report = cli("inspect", weighted, "--frame", "image", "--json").document
    assert report["ends"] == ["head"] and report["notes"] == ["input weight is fixed at its example value"]
    cut = cli("inspect", weighted, "--frame", "image", "--until", "head", "--json").document
    assert cut["islands"] == [] and "cut behind head" in cut["notes"]


def test_a_transformed_model_takes_pictures_once_it_takes_one_frame(cli: Cli, weighted: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.skip.pt2"
    made = cli("transform", weighted, "--frame", "image", "--until", "head", "-o", out)
    assert made.code == 0 and "note     cut behind head" in made.out
    found = SkipModel.load(out).preprocess
    assert found is not None and found.size == (HEIGHT, WIDTH)


def test_dry_run_shows_the_table(cli: Cli, files: Files) -> None:
    shown = cli("transform", files.model, "--dry-run", "--example", files.clip)
    assert any(line.split()[:2] == ["last", "conv2d"] for line in shown.out.splitlines())


def test_compile_makes_a_folder_of_sizes(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "net"
    made = cli("compile", files.skip, "-o", out, "--size", "32x48", "--size", "20x24", "--json").document["engines"]
    assert [engine["frames"] for engine in made] == [[[1, 3, 32, 48]], [[1, 3, 20, 24]]]
    engine = load(out / "20x24.skipfx", threads=1)
    assert engine.preprocess is not None and engine.preprocess.size == (20, 24)
    assert cli("compile", files.skip, "-o", out, "--size", "32x48").code == 1
