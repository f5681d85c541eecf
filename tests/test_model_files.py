"""A `SkipModel` in a file: the same model again, or a reason why not."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import ExportedProgram

from skipfx import graph as g
from skipfx import recipe as r
from skipfx.capture import capture
from skipfx.errors import ArtifactError
from skipfx.media import Preprocess
from skipfx.model import SkipModel
from skipfx.options import DynConv, Gumbel, Hold
from skipfx.transformation import transform
from tests.networks import Branches, branches_clip, seeded


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return capture(seeded(Branches()), branches_clip()[0])


@pytest.fixture(scope="module")
def skip(program: ExportedProgram) -> SkipModel:
    return transform(program, gate=Hold(threshold=0.2, input_threshold=0.02))


@torch.no_grad()
def test_a_saved_model_is_the_same_model(skip: SkipModel, tmp_path: Path) -> None:
    path = tmp_path / "with a space.skip.pt2"
    skip.preprocess = Preprocess(size=(12, 16), mean=(0.5,))
    skip.save(path)
    skip.save(str(path), overwrite=True)
    loaded = SkipModel.load(path)
    assert list(tmp_path.iterdir()) == [path]
    assert g.text(loaded.graph_module) == g.text(skip.graph_module)
    assert (loaded.recipe, loaded.preprocess, loaded.report) == (skip.recipe, skip.preprocess, skip.report)
    state = skip.init_state()
    mine, theirs = state, state
    for frames in branches_clip():
        (one, mine), (two, theirs) = skip(*frames, mine), loaded(*frames, theirs)
        assert torch.equal(one["map"], two["map"]) and torch.equal(one["parts"][0], two["parts"][0])


def test_saving_does_not_overwrite_by_accident(skip: SkipModel, tmp_path: Path) -> None:
    path = tmp_path / "model.skip.pt2"
    path.write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="exists; pass overwrite=True"):
        skip.save(path)
    assert path.read_bytes() == b"mine"


def test_an_unwritable_place_is_named(skip: SkipModel, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written: No such file or directory"):
        skip.save(tmp_path / "missing" / "model.skip.pt2")
    with pytest.raises(ArtifactError, match="is a folder"):
        skip.save(tmp_path)


def saved_with(tmp_path: Path, skip: SkipModel, change: dict[str, Any]) -> Path:
    """A file whose recipe was tampered with."""
    path = tmp_path / "model.skip.pt2"
    skip.save(path, overwrite=True)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith(r.RECIPE_FILE))
    parts[name] = json.dumps({**json.loads(parts[name]), **change}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 99}, "format 99, expected 1"),
        ({"digest": "0" * 64}, "gives another graph than was saved .PyTorch "),
        ({"recipe": {}}, "the recipe is damaged, or of another version: recipe.options"),
        ({"surprise": 1}, "the recipe is damaged, or of another version: surprise"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    skip: SkipModel, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        SkipModel.load(saved_with(tmp_path, skip, change))


def test_a_damaged_or_foreign_file_is_refused(skip: SkipModel, program: ExportedProgram, tmp_path: Path) -> None:
    path = tmp_path / "model.skip.pt2"
    skip.save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArtifactError, match=r"not a readable torch.export file"):
        SkipModel.load(path)
    torch.export.save(program, tmp_path / "plain.pt2")
    with pytest.raises(ArtifactError, match="holds a model, not a transformed one"):
        SkipModel.load(tmp_path / "plain.pt2")
    with pytest.raises(ArtifactError, match="no such file"):
        SkipModel.load(tmp_path / "missing.skip.pt2")


@pytest.mark.parametrize("gate", [Gumbel(block=2), DynConv(target=0.5, squeeze=True)])
@torch.no_grad()
def test_trained_weights_are_saved(program: ExportedProgram, gate: Any, tmp_path: Path) -> None:
    skip, path = transform(program, gate=gate), tmp_path / "trained.skip.pt2"
    for value in skip.parameters():
        value.add_(0.1 * torch.rand_like(value))
    skip.save(path)
    loaded = SkipModel.load(path)
    mine, theirs = dict(skip.named_parameters()), dict(loaded.named_parameters())
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(value.requires_grad for value in theirs.values())


def test_damaged_weights_are_told(program: ExportedProgram, tmp_path: Path) -> None:
    skip = transform(program, gate=Gumbel())
    saved = r.Saved(format=r.FORMAT, torch=torch.__version__, digest=r.digest(skip.graph_module), recipe=skip.recipe)
    path = tmp_path / "some.skip.pt2"
    r.write(path, program, saved, {"other": torch.zeros(1)}, overwrite=False)
    with pytest.raises(ArtifactError, match="its weights are not those of its graph"):
        SkipModel.load(path)
