"""What is trained is kept for the next call, and what a stream computed is counted as its statistics say."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import learned_speed
from benchmarks.learned_speed import active_macs, networks
from benchmarks.segmentation import HEIGHT, WIDTH
from skipfx import Preprocess
from skipfx.bench.compare import REFRESH, STREAM, Clip
from skipfx.build import compile_engine


def test_a_trained_network_is_kept_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_speed, "GATES", {"gumbel-4": learned_speed.GATES["gumbel-4"]})
    networks(tmp_path, width=1, steps=1)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    skip = networks(tmp_path, width=1, steps=1)["gumbel-4"]
    assert [path.name for path in kept] == ["gumbel-4.skip.pt2"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept
    still = Clip([np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)] * 6, Preprocess())
    program = compile_engine(skip).program
    assert active_macs(program, still, STREAM) == 0
    assert active_macs(program, still, REFRESH) >= skip.report.total_macs
