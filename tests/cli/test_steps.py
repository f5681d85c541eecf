"""Each command does its work, says so, and with --json prints one document."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skipfx.media import Preprocess
from skipfx.model import SkipModel
from skipfx.options import Hold, InputNorm
from skipfx.runtime.artifact import load
from tests.cli.conftest import HEIGHT, LENGTH, WIDTH, Cli, Files, pictures, save_program, tiny


def test_inspect_reports_layers_and_reasons(cli: Cli, files: Files) -> None:
    text = cli("inspect", files.model)
    assert (text.code, text.err) == (0, "")
    assert "2 convolutions" in text.out
    assert "first" in text.out
    report = cli("inspect", files.model, "--exclude", "last", "--json").document
    assert report["sparse_convs"] == 1
    assert report["islands"][0]["layers"] == ["last"]


@pytest.mark.parametrize("kind", ["skip", "engine"])
def test_inspect_shows_the_report_of_what_was_made(cli: Cli, files: Files, kind: str) -> None:
    document = cli("inspect", getattr(files, kind), "--json").document
    assert document["sparse_convs"] == 2
    assert document.get("precision") == ("fp32" if kind == "engine" else None)


def test_transform_keeps_options_and_pictures(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "x.skip.pt2"
    options = ("--threshold", "0", "--dilation", "1", "--set", "la*=0.5", "--exclude", "first", "--block", "2")
    looks = ("--mean", "0.4,0.5,0.6", "--std", "1/2", "--channels", "bgr", "--scale", "1/256")
    made = cli("transform", files.model, "-o", out, "--example", files.clip, *options, *looks, "--json")
    assert made.document["out"] == str(out)
    skip = SkipModel.load(out)
    assert skip.options.gate == Hold(threshold=0, dilation=1)
    assert (skip.options.block, skip.options.exclude, skip.options.thresholds) == (2, ("first",), {"la*": 0.5})
    want = Preprocess(size=(HEIGHT, WIDTH), scale=1 / 256, mean=(0.4, 0.5, 0.6), std=(0.5,), channels="bgr")
    assert skip.preprocess == want


def test_transform_takes_the_paper_gates(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "x.skip.pt2"
    words = ("--gate", "input_norm", "--eps", "0.1", "--p", "2", "--reference", "previous", "--update", "residual")
    assert cli("transform", files.model, "-o", out, *words).code == 0
    assert SkipModel.load(out).options.gate == InputNorm(eps=0.1, p=2, reference="previous")


def test_dry_run_writes_nothing(cli: Cli, files: Files, tmp_path: Path) -> None:
    made = cli("transform", files.model, "--dry-run", "--example", files.clip, "-o", tmp_path / "x.skip.pt2")
    assert made.code == 0
    assert "nothing written" in made.out
    assert not list(tmp_path.iterdir())


def test_one_channel_takes_luma(cli: Cli, files: Files, tmp_path: Path) -> None:
    model = save_program(tiny(1), tmp_path / "m.pt2", torch.zeros(1, 1, HEIGHT, WIDTH))
    made = cli("transform", model, "--dry-run", "--example", files.clip, "--json").document
    assert made["preprocess"]["channels"] == "luma"


def test_open_sizes_become_those_of_the_example(cli: Cli, files: Files, tmp_path: Path) -> None:
    dims = {2: torch.export.Dim("h", min=8), 3: torch.export.Dim("w", min=8)}
    program = torch.export.export(tiny(), (torch.zeros(1, 3, 16, 24),), dynamic_shapes=(dims,))
    torch.export.save(program, tmp_path / "open.pt2")
    made = cli("transform", tmp_path / "open.pt2", "--dry-run", "--example", files.clip, "--json").document
    assert made["preprocess"]["size"] == [HEIGHT, WIDTH]


def test_compile_writes_what_loads(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "x.skipfx"
    made = cli("compile", files.skip, "-o", out, "--dense-above", "0.5", "--json").document
    assert made["bytes"] == out.stat().st_size
    assert load(out).preprocess == SkipModel.load(files.skip).preprocess


@pytest.mark.parametrize("kind", ["model", "skip", "engine"])
def test_run_does_the_missing_steps(cli: Cli, files: Files, kind: str) -> None:
    found = cli("run", getattr(files, kind), files.clip, "--frames", 4, "--json").document
    assert (found["frames"], found["refreshes"]) == (4, 1)
    shares = [frame["active_fraction"] for frame in found["per_frame"]]
    assert shares[0] == 1
    assert 0 < max(shares[1:]) < 0.5


def test_run_saves_what_the_model_gives(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "some outputs"
    done = cli("run", files.engine, files.clip, "--refresh-every", 1, "-o", out)
    assert f"in {out}" in done.out
    frame = torch.from_numpy(Preprocess()(pictures()[3]))
    with torch.no_grad():
        expected = tiny()(frame)
    with np.load(out / "000003.npz") as saved:
        np.testing.assert_allclose(saved["output"], expected, atol=1e-5)
    assert cli("run", files.engine, files.clip, "--frames", 2, "-o", out, "--overwrite").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["000000.npz", "000001.npz"]


def test_run_reads_raw_frames(cli: Cli, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(picture.tobytes() for picture in pictures())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    found = cli("run", files.engine, "-", "--raw-size", f"{HEIGHT}x{WIDTH}", "--json").document
    assert found["frames"] == LENGTH


@pytest.mark.parametrize("words", [("model",), ("skip",), ("engine", "--model"), ("engine",)])
def test_verify_passes(cli: Cli, files: Files, words: tuple[str, ...]) -> None:
    more = ("--model", files.model) if len(words) > 1 else ()
    found = cli("verify", getattr(files, words[0]), "--clip", files.clip, *more, "--json")
    assert (found.code, found.document["ok"], found.document["frames"]) == (0, True, LENGTH)
    assert ("without --model" in found.err) == (words == ("engine",))


def test_verify_fails_with_code_3(cli: Cli, files: Files, tmp_path: Path) -> None:
    other = save_program(tiny(seed=1), tmp_path / "other.pt2", torch.zeros(1, 3, HEIGHT, WIDTH))
    found = cli("verify", files.engine, "--clip", files.clip, "--model", other, "--json")
    assert found.code == 3
    assert not found.document["ok"]
    assert "does not keep its promises" in found.err


def test_pickles_load_where_they_are_trusted(cli: Cli, files: Files, tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "m.pth")
    refused = cli("inspect", tmp_path / "m.pth", "--example", files.clip)
    assert refused.code == 1
    assert "--trust-pickle" in refused.err
    assert cli("inspect", tmp_path / "m.pth", "--example", files.clip, "--trust-pickle").code == 0
    assert cli("run", tmp_path / "m.pth", files.clip, "--frames", 2, "--trust-pickle").code == 0
