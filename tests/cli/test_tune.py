"""`skipfx tune`, and `skipfx compile --tuned`; what is measured and written stands in tests/runtime/cuda."""

from pathlib import Path
from typing import Any

import pytest

from skipfx.cli import tune
from skipfx.errors import DeviceError
from skipfx.runtime.gpu.driver import open_driver
from skipfx.tuning import Tuned
from tests.cli.conftest import HEIGHT, WIDTH, Cli, Files


def test_what_was_measured_is_shown(cli: Cli, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, out = (32, 2, 1, 2), (64, 2, 1, 3), tmp_path / "tuned.json"
    asked: list[Any] = []

    def measured(skip: Any, clip: list[Any], *rest: Any, **options: Any) -> Tuned:
        asked[:] = [[frame.shape for frame in clip], rest, options]
        return Tuned("sm_90", {"narrow small": {one: (2.0, 0.25), other: (1.0, 0.125)}}, {"narrow small": other})

    monkeypatch.setattr(tune, "tune", measured)
    words = ("tune", files.skip, "--clip", files.clip, "--frames", 3, "--precision", "fp16", "-o", out)
    assert cli(*words, "--json").document == {
        "out": str(out),
        "architecture": "sm_90",
        "classes": {
            "narrow small": {
                "schedule": list(other),
                "measured": [
                    {"schedule": list(one), "refresh_ms": 2.0, "frame_ms": 0.25},
                    {"schedule": list(other), "refresh_ms": 1.0, "frame_ms": 0.125},
                ],
            }
        },
    }
    assert asked == [[(1, 3, HEIGHT, WIDTH)] * 3, (out,), {"precision": "fp16", "overwrite": False}]
    assert cli(*words).out.splitlines()[1:] == [
        "  narrow small 32  2  1  2     2.000     0.250",
        "* narrow small 64  2  1  3     1.000     0.125",
        f"wrote {out}",
    ]


def test_a_file_that_exists_stays(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "tuned.json"
    out.write_text("mine")
    done = cli("tune", files.skip, "--clip", files.clip, "-o", out)
    assert done.code == 1 and f"error: {out}: exists; pass --overwrite" in done.err
    assert out.read_text() == "mine"


def test_without_a_gpu_nothing_is_written(cli: Cli, files: Files, tmp_path: Path) -> None:
    try:
        open_driver()
    except DeviceError as error:
        done = cli("tune", files.skip, "--clip", files.clip, "-o", tmp_path / "tuned.json")
        assert (done.code, done.out, done.err) == (1, "", f"error: {error}\n")
        assert not list(tmp_path.iterdir())
    else:
        pytest.skip("there is a GPU here")


def test_a_wrong_table_is_refused(cli: Cli, files: Files, tmp_path: Path) -> None:
    table, out = tmp_path / "tuned.json", tmp_path / "net.skipfx"
    table.write_text("{}")
    done = cli("compile", files.skip, "--target", "cuda", "--tuned", table, "-o", out)
    assert (
        done.code == 1
        and f"error: {table}: the table: expected the entries fp32, tf32, fp16, bf16; got none" in done.err
    )
    done = cli("compile", files.skip, "--tuned", table, "-o", out)
    assert done.code == 2 and "has schedules for GPUs" in done.err
    assert not out.exists()
