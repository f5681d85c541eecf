"""`skipfx export`, and what the other commands do with its file."""

from pathlib import Path

import pytest

from skipfx.passes.portable import cost
from tests.cli.conftest import Cli, Files


def test_export_then_run(cli: Cli, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "STEP", 0)  # the network is so small that no layer would pay
    out = tmp_path / "x.onnx"
    made = cli("export", files.skip, "-o", out, "--json")
    assert made.code == 0, made.err
    assert made.document["manifest"]["safe_in_place"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.config.pbtxt", "x.json", "x.onnx"]
    assert cli("export", files.skip, "-o", out).code == 1
    ran = cli("run", out, files.clip, "--threads", "1", "--json")
    assert (ran.code, ran.document["refreshes"]) == (0, 1)
    assert 0 < ran.document["active_fraction"] < 1
    assert cli("inspect", out, "--json").document["sparse_convs"] == 2
    assert cli("run", out, files.clip, "--runtime", "tensorflow").code == 2


def test_nothing_worth_gathering_writes_nothing(cli: Cli, files: Files, tmp_path: Path) -> None:
    refused = cli("export", files.skip, "-o", tmp_path / "x.onnx")
    assert refused.code == 1
    assert "would gain" in refused.err
    assert not list(tmp_path.iterdir())
