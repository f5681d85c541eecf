"""bench and demo measure and print; how fast things are is not tested."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skipfx.bench.compare import WAYS, Comparison
from skipfx.bench.timing import Timing
from skipfx.cli import bench, demo
from skipfx.demo.show import work
from skipfx.media import Preprocess
from skipfx.runtime.artifact import load
from tests.cli.conftest import HEIGHT, LENGTH, WIDTH, Cli, Files, pictures

ENGINE = ("--against", "torch", "--rounds", 1, "--threads", 1)


def test_bench_compares_with_dense_engines(cli: Cli, files: Files) -> None:
    words = ("bench", files.engine, "--model", files.model, "--clip", files.clip, *ENGINE, "--per-layer", "--json")
    found = cli(*words).document
    assert list(found["dense"]) == ["torch"]
    assert found["fastest"] == "torch"
    assert list(found["stream"]) == ["skipfx", "skipfx, still frame", "skipfx, refresh on every frame"]
    assert found["speedup"].keys() == found["stream"].keys()
    assert 0 < found["active_fraction"] < 0.5
    assert (found["frames"], found["threads"], found["sparse_share"]) == (LENGTH - 2, 1, 1)
    assert [layer["name"] for layer in found["layers"]] == ["frames", "first", "last", "outputs"]
    assert [layer["realised"] is None for layer in found["layers"]] == [True, False, False, True]


def test_bench_prints_tables(cli: Cli, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = {"torch": Timing(((0.040, 0.040),)), "openvino": Timing(((0.020, 0.020),))}
    stream = {way: Timing(((0.005, 0.005),)) for way in WAYS}
    monkeypatch.setattr(bench, "compare", lambda *_: Comparison(dense, stream, {"onnxruntime": "it is away"}))
    done = cli("bench", files.skip, "--clip", files.clip, "--per-layer")
    assert done.code == 0
    for words in (
        "faster than openvino",
        "40.00",
        "4.00 x (4.00 - 4.00)",
        "left out it is away",
        "first",
        "last",
        "us",
    ):
        assert words in done.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("engine",), 2, "--model"),
        (("skip", "--against", "abacus"), 2, "abacus"),
        (("skip", "--frames", "2"), 2, "--frames"),
    ],
)
def test_bench_refuses(cli: Cli, files: Files, words: tuple[Any, ...], code: int, message: str) -> None:
    kind, *more = words
    done = cli("bench", getattr(files, kind), "--clip", files.clip, *more)
    assert done.code == code
    assert message in done.err


def test_work_adds_up_to_the_share_of_the_macs(files: Files) -> None:
    stream = load(files.engine, threads=2).stream()
    for picture in pictures(3):
        stream(Preprocess()(picture))
        assert work(stream, (HEIGHT, WIDTH)).mean() == pytest.approx(stream.stats.active_fraction)


def test_demo_prints_a_table_and_draws(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "AGAINST", ("torch",))
    monkeypatch.setattr(demo, "ROUNDS", 1)
    picture = tmp_path / "a demo.png"
    found = cli("demo", "-o", picture, "--frames", 4, "--threads", 1, "--json").document
    assert (found["fastest"], found["out"]) == ("torch", str(picture))
    assert 0 < found["dense_iou"] <= 1
    assert found["stream_iou"] == pytest.approx(found["dense_iou"], abs=0.05)
    with Image.open(picture) as image:
        assert image.width > 3 * 512
    before = picture.read_bytes()
    again = cli("demo", "-o", picture, "--frames", 4)
    assert again.code == 1
    assert "--overwrite" in again.err
    assert picture.read_bytes() == before
