"""Artifacts: whole or not at all, checked before any code is loaded, and run without PyTorch."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import skipfx.runtime.engine
from skipfx.build import compile_engine
from skipfx.errors import ArtifactError
from skipfx.media import Preprocess
from skipfx.options import Hold
from skipfx.runtime import Engine, load
from skipfx.runtime.artifact import read
from tests.networks import Branches, moving_clip, seeded
from tests.runtime.check import assert_same, compiled, flat

CLIP = moving_clip(3, 13, 18, length=4)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return compiled(seeded(Branches()), CLIP[0], Hold(threshold=0.1))[1]


@pytest.fixture
def path(engine: Engine, tmp_path: Path) -> Path:
    path = tmp_path / "a file.skipfx"
    engine.save(path)
    return path


def test_round_trip(engine: Engine, path: Path) -> None:
    loaded = load(path, threads=1)
    one, other = engine.stream(), loaded.stream()
    for frames in CLIP:
        found = other(frames[0])
        assert_same(flat(found), flat(one(frames[0])))
        assert list(found) == ["map", "parts"]
    assert loaded.program.info == json.loads(json.dumps(engine.program.info))


def test_equal_engines_make_equal_files(engine: Engine, path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.skipfx"
    load(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_preprocessing_is_kept(engine: Engine, tmp_path: Path) -> None:
    skip, _ = compiled(seeded(Branches()), CLIP[0], Hold(threshold=0.1))
    skip.preprocess = Preprocess(size=(13, 18), mean=(0.5,), std=(2.0,))
    compile_engine(skip).save(tmp_path / "p.skipfx")
    assert load(tmp_path / "p.skipfx").preprocess == skip.preprocess


def edited(path: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    edit(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def flip(name: str) -> Callable[[dict[str, bytes]], None]:
    def edit(entries: dict[str, bytes]) -> None:
        data = bytearray(entries[name])
        data[len(data) // 2] ^= 1
        entries[name] = bytes(data)

    return edit


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    def edit(entries: dict[str, bytes]) -> None:
        del entries[name]

    return edit


def manifest(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def edit(entries: dict[str, bytes]) -> None:
        entries["manifest.json"] = json.dumps(json.loads(entries["manifest.json"]) | changes).encode()

    return edit


def manifest_of(data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({"manifest.json": data})


DAMAGE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "code": (flip("code.0.o"), "code.0.o is missing or was changed"),
    "weights": (flip("weights.f32"), "weights.f32 is missing or was changed"),
    "no code": (drop("code.1.o"), "code.1.o is missing"),
    "unlisted code": (manifest(hashes={}), "manifest is damaged"),
    "no manifest": (drop("manifest.json"), "manifest cannot be read"),
    "foreign": (manifest(kind="something"), "not a skipfx artifact"),
    "format": (manifest(format=99), "compile the model again"),
    "version": (manifest(versions={"skipfx": "0.1.0", "tvm": "0.1"}), "compile the model again"),
    "level": (manifest(level="x86-64-v9"), "compiled for x86-64-v9"),
    "field": (manifest(sizes="many"), "manifest is damaged: sizes"),
    "sizes": (manifest(sizes=[1, 2]), "manifest is damaged: sizes"),
    "layers": (manifest(layers=[{"name": "x"}]), "manifest is damaged: layers"),
    "parts": (manifest(parts=[{"call": {}}]), "manifest is damaged: parts"),
    "versions": (manifest(versions="none"), "compile the model again"),
    "no manifest but a list": (manifest_of(b"[]"), "not a skipfx artifact"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_changed_artifact_is_refused_before_its_code_is_loaded(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(code: tuple[bytes, ...]) -> None:
        raise AssertionError("code was loaded")

    monkeypatch.setattr(skipfx.runtime.engine, "load_code", never)
    edit, message = DAMAGE[name]
    with pytest.raises(ArtifactError, match=message):
        load(edited(path, edit))


def test_a_truncated_file_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 1, 30, 1000, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"damaged|not a skipfx artifact"):
            load(path)


def test_a_flipped_bit_is_found_or_does_no_harm(engine: Engine, path: Path) -> None:
    """Anywhere in the file: in what frames the entries, bit by bit, and in the entries."""
    whole = path.read_bytes()
    frame = [*range(60), *range(len(whole) - 400, len(whole))]
    spots = [(at, bit) for at in frame for bit in range(8)] + [(at, 4) for at in range(60, len(whole), 5003)]
    found = 0
    for at, bit in spots:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            program = read(path)
        except ArtifactError:
            found += 1
        else:
            assert program.code == engine.program.code
            assert program.w.tobytes() == engine.program.w.tobytes()
            assert program.c.tobytes() == engine.program.c.tobytes()
    assert found > len(spots) / 4


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        load(tmp_path / "missing.skipfx")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="not a skipfx artifact"):
        load(tmp_path / "text")


def test_saving_loses_nothing(engine: Engine, path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="overwrite"):
        engine.save(path)
    assert path.read_bytes() == before
    engine.save(path, overwrite=True)
    with pytest.raises(ArtifactError, match="cannot be written"):
        engine.save(tmp_path / "missing" / "x.skipfx")
    with pytest.raises(ArtifactError, match="is a folder"):
        engine.save(tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_leaves_what_was_there(engine: Engine, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match="cannot be written: No space left"):
        engine.save(path, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
import numpy as np
import skipfx.runtime

stream = skipfx.runtime.load(sys.argv[1], threads=1).stream()
np.save(sys.argv[3], stream(np.load(sys.argv[2]))["map"])
assert not any(name.partition(".")[0] in ("torch", "tvm") for name in sys.modules)
"""


def test_an_artifact_runs_without_pytorch_and_without_the_compiler(engine: Engine, path: Path, tmp_path: Path) -> None:
    frame, result = tmp_path / "frame.npy", tmp_path / "result.npy"
    np.save(frame, CLIP[0][0].numpy())
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), str(frame), str(result)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same([np.load(result)], [np.asarray(engine.stream()(torch.clone(CLIP[0][0]))["map"])])
