"""`skipfx train`: from a transformed file to a trained one, and what it refuses."""

from pathlib import Path

import pytest
import torch

from skipfx.model import SkipModel
from skipfx.passes.gate_convolutions import is_gate_parameter
from skipfx.training.checkpoint import CHECKPOINT, LOG
from tests.cli.conftest import Cli, Files

DATA = """
import torch

def clips():
    torch.manual_seed(1)
    still, moving = torch.rand(1, 1, 3, 32, 48), torch.rand(1, 3, 3, 32, 48)
    return [(still + 0.02 * moving, torch.zeros(1, 3, 4, 32, 48))]

def loss(outputs, target):
    return (outputs - target).square().mean()

number = 3
"""


def test_gates_are_trained_and_saved(cli: Cli, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera_data.py").write_text(DATA)
    assert cli("transform", files.model, "--gate", "gumbel", "--block", 2, "-o", "net.skip.pt2").code == 0
    shown = cli("inspect", "net.skip.pt2")
    assert "learned  2 gates decide on" in shown.out and "learned gate" in shown.out
    words = ["--data", "camera_data:clips", "--task", "camera_data:loss", "--steps", 3, "--every", 2]
    done = cli("train", "net.skip.pt2", *words, "-o", "trained.skip.pt2", "--folder", "run", "--json")
    assert [row["step"] for row in done.document["log"]] == [2, 3]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [CHECKPOINT, LOG]
    before, after = (dict(SkipModel.load(name).named_parameters()) for name in ("net.skip.pt2", "trained.skip.pt2"))
    assert all(not torch.equal(before[name], after[name]) for name in before if is_gate_parameter(name))
    assert cli("train", "net.skip.pt2", *words, "-o", "trained.skip.pt2").code == 1  # it exists
    for data in ("nowhere:clips", "camera_data:nothing", "camera_data", "camera_data:number"):
        refused = cli("train", "net.skip.pt2", "--data", data, *words[2:], "-o", "other.skip.pt2")
        assert refused.code == 2 and "--data" in refused.err
    held = cli("train", files.skip, *words, "-o", "other.skip.pt2")
    assert held.code == 2 and "a hold gate learns nothing" in held.err
    assert not (tmp_path / "other.skip.pt2").exists()


def test_blocks_are_masked_by_option(cli: Cli, files: Files) -> None:
    refused = cli("transform", files.model, "--gate", "dynconv", "--target", 0.5, "--squeeze", "--dry-run")
    assert refused.code == 4 and "no residual block" in refused.err
    assert (
        "less than or equal to 1" in cli("transform", files.model, "--gate", "dynconv", "--target", 2, "--dry-run").err
    )
