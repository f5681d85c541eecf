"""Bad input gives one clear message and the right exit code, and leaves files as they were."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.cli.conftest import HEIGHT, WIDTH, Cli, Files, Result, save_program

Damage = Callable[[Path, Path], None]


class Flat(nn.Module):
    """Nothing local."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(3 * HEIGHT * WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.only(x.flatten(1))
        return y


class Branching(nn.Module):
    """Control flow that depends on values; as `torch.cond` it exports."""

    def __init__(self, exportable: bool) -> None:
        super().__init__()
        self.exportable, self.conv = exportable, nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.exportable:
            z: Tensor = torch.cond(y.mean() > 0, lambda t: t + 1, lambda t: t - 1, (y,))
            return z
        return y + 1 if y.mean() > 0 else y - 1


def refused(done: Result, code: int, *words: str) -> None:
    assert (done.code, done.out) == (code, "")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize("command", ["inspect", "transform", "compile", "run", "bench", "verify"])
@pytest.mark.parametrize("name", ["missing.pt2", "text.pt2", "text.skip.pt2", "text.skipfx"])
def test_wrong_files(cli: Cli, files: Files, tmp_path: Path, command: str, name: str) -> None:
    path = tmp_path / name
    if name != "missing.pt2":
        path.write_text("no model")
    more: tuple[object, ...] = ("-o", tmp_path / "out") if command in ("transform", "compile") else ()
    if command in ("bench", "verify", "run"):
        more = (files.clip,) if command == "run" else ("--clip", files.clip)
    refused(cli(command, path, *more), 1, f"error: {path}: ")
    assert not (tmp_path / "out").exists()


def _truncated(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes()[:-2000])


def _rewritten(edit: Callable[[str, bytes], bytes]) -> Damage:
    def damage(source: Path, path: Path) -> None:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, edit(name, old.read(name)))

    return damage


def _tampered(name: str, data: bytes) -> bytes:
    return data if name != "code.0.o" else data[:-1] + bytes([data[-1] ^ 1])


def _other_version(name: str, data: bytes) -> bytes:
    return data if name != "manifest.json" else json.dumps(json.loads(data) | {"format": 999}).encode()


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_truncated, "damaged"),
        (_rewritten(_tampered), "changed after"),
        (_rewritten(_other_version), "compile the model again"),
    ],
)
def test_damaged_artifacts(cli: Cli, files: Files, tmp_path: Path, damage: Damage, word: str) -> None:
    path = tmp_path / "bad.skipfx"
    damage(files.engine, path)
    refused(cli("run", path, files.clip), 1, str(path), word)


def test_outputs_are_not_overwritten(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("precious")
    refused(cli("transform", files.model, "-o", out, "--example", files.clip), 1, str(out), "--overwrite")
    refused(cli("compile", files.skip, "-o", out), 1, str(out), "--overwrite")
    refused(cli("run", files.engine, files.clip, "-o", out), 1, str(out), "--overwrite")
    refused(cli("run", files.engine, files.clip, "-o", out, "--overwrite"), 1, str(out))
    assert out.read_text() == "precious"
    assert cli("compile", files.skip, "-o", out, "--overwrite").code == 0
    assert list(tmp_path.iterdir()) == [out]


def test_unwritable_folders(cli: Cli, files: Files, tmp_path: Path) -> None:
    for out in (tmp_path / "nowhere" / "out", files.model / "out"):
        refused(cli("transform", files.model, "-o", out, "--example", files.clip), 1, "cannot be written")
        refused(cli("compile", files.skip, "-o", out), 1, "cannot be written")
        refused(cli("run", files.engine, files.clip, "-o", out), 1, "cannot be written")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gate", "gumball"), "hold, input_norm, output_norm"),
        (("--eps", "0.1"), "eps"),
        (("--gate", "input_norm"), "eps"),
        (("--dilation", "2"), "odd"),
        (("--threshold", "-1"), "threshold"),
        (("--threshold", "much"), "--threshold"),
        (("--block", "3"), "block"),
        (("--set", "first"), "PATTERN=VALUE"),
        (("--exclude", "nobody"), "matches no module"),
        (("--scale", "x"), "1/255"),
        (("--channels", "luma"), "the model takes 3"),
        (("--mean", "1,2"), "mean"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_wrong_options(cli: Cli, files: Files, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = cli("transform", files.model, "-o", tmp_path / "out", "--example", files.clip, *words)
    refused(done, 2, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("transform", "{model}"),
        ("compile", "{skip}", "-o", "out.skipfx", "--dense-above", "2"),
        ("run", "{engine}", "{clip}", "--frames", "0"),
        ("run", "{engine}", "{clip}", "--threads", "0"),
        ("run", "{engine}", "{clip}", "--threshold", "0.2"),
        ("run", "{skip}", "{clip}", "--threshold", "0.2"),
        ("run", "{engine}", "{clip}", "--mean", "0.5"),
        ("run", "{skip}", "{clip}", "--mean", "0.5"),
        ("run", "{engine}", "-"),
        ("run", "{engine}", "-", "--raw-size", "32"),
        ("verify", "{skip}", "--clip", "{clip}", "--model", "{model}"),
        ("verify", "{skip}"),
        ("polish",),
    ],
)
def test_wrong_usage(
    cli: Cli, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli(*(word.format(**vars(files)) for word in words)), 2)
    assert not list(tmp_path.iterdir())


def test_targets_that_are_unknown(cli: Cli, files: Files, tmp_path: Path) -> None:
    refused(cli("compile", files.skip, "-o", tmp_path / "x", "--target", "abacus"), 1, "abacus")
    assert not list(tmp_path.iterdir())


def test_an_example_is_asked_for(cli: Cli, files: Files, tmp_path: Path) -> None:
    refused(cli("transform", files.model, "-o", tmp_path / "out"), 2, "--example")


def test_clips_that_cannot_be_read(cli: Cli, files: Files, tmp_path: Path) -> None:
    video, empty, mixed = tmp_path / "bad.mp4", tmp_path / "empty", tmp_path / "mixed"
    video.write_text("no video")
    empty.mkdir()
    mixed.mkdir()
    for index in (1, 2):
        Image.new("RGB", (10 * index, 10)).save(mixed / f"{index}.png")
    for clip in (video, empty, mixed, tmp_path / "missing"):
        refused(cli("run", files.engine, clip), 1, str(clip))
    refused(cli("transform", files.model, "--dry-run", "--example", video), 1, str(video))


def test_raw_frames_that_end_early(cli: Cli, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bytes(HEIGHT * WIDTH * 3 + 5))))
    refused(cli("run", files.engine, "-", "--raw-size", f"{HEIGHT}x{WIDTH}"), 1, "ended within a frame")


def test_nothing_to_transform(cli: Cli, files: Files, tmp_path: Path) -> None:
    model = save_program(Flat(), tmp_path / "flat.pt2", torch.rand(1, 3, HEIGHT, WIDTH))
    refused(cli("inspect", model), 4)
    refused(cli("transform", model, "-o", tmp_path / "out"), 4)
    refused(cli("run", model, files.clip), 4)
    assert not (tmp_path / "out").exists()


def test_control_flow_that_depends_on_data(cli: Cli, files: Files, tmp_path: Path) -> None:
    model = save_program(Branching(exportable=True), tmp_path / "m.pt2", torch.rand(1, 3, HEIGHT, WIDTH))
    refused(cli("inspect", model), 1, "control flow")
    torch.save(Branching(exportable=False), tmp_path / "m.pth")
    words = ("--trust-pickle", "--example", files.clip)
    refused(cli("inspect", tmp_path / "m.pth", *words), 1, "torch.export cannot capture Branching")


def test_models_that_take_no_picture(cli: Cli, files: Files, tmp_path: Path) -> None:
    model = save_program(nn.Conv2d(5, 8, 3), tmp_path / "five.pt2", torch.rand(1, 5, HEIGHT, WIDTH))
    refused(cli("run", model, files.clip), 2, "1 or 3 channels")
    assert cli("transform", model, "--dry-run").code == 0
    refused(cli("transform", model, "--dry-run", "--mean", "0.5"), 2, "1 or 3 channels")


def test_models_of_other_frames(cli: Cli, files: Files, tmp_path: Path) -> None:
    model = save_program(nn.Conv2d(3, 8, 3), tmp_path / "small.pt2", torch.rand(1, 3, 16, 16))
    refused(cli("verify", files.engine, "--clip", files.clip, "--model", model), 2, "[1, 3, 16, 16]")
