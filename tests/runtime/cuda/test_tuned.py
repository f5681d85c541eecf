"""Tables of schedules: their file, what they change, and the command that measures them, with threads as loops."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from skipfx import tuning
from skipfx.build import compile_engine
from skipfx.errors import ArtifactError, CompileError, DeviceError, FrameError, OptionError
from skipfx.model import SkipModel
from skipfx.passes.lower import lower
from skipfx.runtime.assemble import assemble
from skipfx.runtime.backends import cuda as backend
from skipfx.runtime.gpu.driver import open_driver
from skipfx.runtime.kernels.cuda.module import schedules
from skipfx.runtime.kernels.cuda.tuned import ROOM, candidates, read_table, scheduled, shipped
from skipfx.runtime.kernels.table import PRECISIONS
from skipfx.transformation import transform
from tests.networks import seeded
from tests.runtime.check import EXACT, changing
from tests.runtime.cuda.driver import LoopDriver, loops

CLIP = changing((3, 9, 10))
SHIPPED = Path(backend.__file__).parents[1] / "kernels" / "cuda" / "schedules.json"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    net = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 40, 1))
    return transform(seeded(net), CLIP[0], gate=EXACT)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopDriver]:
    """A GPU that is the CPU."""
    found = LoopDriver()
    monkeypatch.setattr(tuning, "open_driver", lambda: found)
    monkeypatch.setattr(tuning, "TURNS", 1)
    monkeypatch.setattr(tuning, "REPEATS", 1)
    with loops(found):
        yield found


def test_the_shipped_table_is_read_and_written_as_it_is(tmp_path: Path) -> None:
    assert shipped().text() == SHIPPED.read_text()
    changed = shipped().replaced("fp16", "sm_80", {"wide small": (64, 2, 1, 2)})
    disordered = dict(reversed(json.loads(changed.text()).items()))
    (tmp_path / "tuned.json").write_text(json.dumps(disordered))
    found = read_table(tmp_path / "tuned.json")
    assert found.cuts == changed.cuts != shipped().cuts
    assert found.replaced("fp16", "sm_80", shipped().cuts["fp16"]["sm_80"]).cuts == shipped().cuts


@pytest.mark.parametrize("precision", PRECISIONS)
def test_candidates_fit_and_the_shipped_schedules_are_among_them(precision: Any) -> None:
    for architecture, classes in shipped().cuts[precision].items():
        for shape, cut in classes.items():
            found = candidates(precision, architecture, shape)
            assert cut in found and len(set(found)) == len(found) > 1
            assert all(scheduled(precision, architecture, each).shared <= ROOM for each in found)


def replace(cut: Any) -> Edit:
    return lambda table: table["fp32"]["sm_80"].update({"wide small": cut})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda table: table.pop("bf16"), r"the table: expected .* fp32, tf32, fp16, bf16; got fp32, tf32, fp16$"),
        (lambda table: table["tf32"].update(sm_75={}), r"tf32: expected the entries sm_80, .*; got .*, sm_75$"),
        (lambda table: table.update(fp16=[]), r"fp16: expected the entries sm_75, .*; got \[\]"),
        (lambda table: table["fp16"]["sm_90"].pop("wide large"), r"fp16, sm_90: expected the entries narrow small, "),
        (replace([32, 4, 1]), r"fp32, sm_80, wide small: expected \[positions 32 or 64, .*\]; got \[32, 4, 1\]"),
        (replace([48, 4, 1, 2]), r"fp32, sm_80, wide small: expected .* got \[48, 4, 1, 2\]"),
        (replace([32, 4, True, 2]), r"fp32, sm_80, wide small: expected"),
        (replace([32.0, 4, 1, 2]), r"fp32, sm_80, wide small: expected"),
        (replace("large"), r"fp32, sm_80, wide small: expected .* got large"),
        (replace([64, 4, 2, 3]), r"fp32, sm_80, wide small: \[64, 4, 2, 3\] takes 57,856 bytes .* at most 49,152"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(skip: SkipModel, tmp_path: Path, edit: Edit, message: str) -> None:
    path = tmp_path / "tuned.json"
    table = json.loads(SHIPPED.read_text())
    edit(table)
    path.write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match=message) as refused:
        compile_engine(skip, target="cuda", tuned=path)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_file_that_holds_no_table_is_refused(skip: SkipModel, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    with pytest.raises(ArtifactError, match="cannot be read"):
        compile_engine(skip, target="cuda", tuned=path)
    path.write_bytes(b"\xff no JSON")
    with pytest.raises(ArtifactError, match="expected a table of schedules, JSON as skipfx tune writes it"):
        compile_engine(skip, target="cuda", tuned=str(path))
    path.write_text("[]")
    with pytest.raises(ArtifactError, match=r"the table: expected the entries fp32, .*; got \[\]"):
        compile_engine(skip, target="cuda", tuned=path)
    path.write_text(shipped().text())
    with pytest.raises(OptionError, match="schedules for GPUs"):
        compile_engine(skip, target="cpu", tuned=path)


def test_a_tuned_table_changes_the_kernels_and_no_result(tmp_path: Path) -> None:
    """Sums run in one order in every schedule, so the outputs are the same bit by bit."""
    clip, path = changing((20, 9, 10)), tmp_path / "tuned.json"
    skip = transform(seeded(nn.Conv2d(20, 40, 3, padding=1)), clip[0], gate=EXACT)
    path.write_text(shipped().replaced("fp32", "sm_80", {"wide small": (64, 4, 2, 2)}).text())
    with loops(LoopDriver("mixed")):
        engines = [compile_engine(skip, "cuda:sm_80", tuned=each) for each in (None, path)]
        assert engines[0].program.code != engines[1].program.code
        streams = [engine.stream() for engine in engines]
        for (frame,) in clip[:4]:
            expected, found = (stream(frame) for stream in streams)
            assert torch.equal(found, expected) and bool(expected.any())


def test_kernels_are_scheduled_by_their_table(skip: SkipModel) -> None:
    image = assemble(lower(skip.graph_module), tiles=backend.tiles_cuda("cuda", "fp16"))
    table = shipped().replaced("fp16", "sm_80", {"wide small": (64, 2, 1, 2)})
    tuned, plain = (schedules(backend.kernels_of(image, each), "sm_80") for each in (table, None))
    assert [cut[1:5] for cut in plain] == [
        shipped().cuts["fp16"]["sm_80"][shape] for shape in ("narrow small", "wide small")
    ]
    assert tuned == (plain[0], scheduled("fp16", "sm_80", (64, 2, 1, 2))) != plain
    assert schedules(backend.kernels_of(image, table), "sm_90") == schedules(backend.kernels_of(image), "sm_90")


def test_the_fastest_is_so_on_refreshes_and_changes_together() -> None:
    a, b, c = (32, 2, 1, 2), (64, 2, 1, 2), (64, 2, 2, 2)
    assert tuning.fastest({a: (1.0, 0.1), b: (0.9, 0.2), c: (1.5, 0.09)}) == a
    assert tuning.fastest({a: (1.0, 0.1), b: (1.0, 0.1)}) == a
    assert tuning.fastest({a: (1.0, 0.1), b: (0.99, 0.1)}) == b


def test_the_newest_architecture_that_a_gpu_runs() -> None:
    class Gpu(LoopDriver):
        def runs(self, level: str) -> bool:
            return level <= self.order

    assert [tuning.newest(Gpu(name)) for name in ("sm_75", "sm_88", "sm_90")] == ["sm_75", "sm_86", "sm_90"]
    with pytest.raises(DeviceError, match="too old: expected sm_75 or later"):
        tuning.newest(Gpu("sm_70"))


def test_tuning_writes_a_table_of_the_fastest(
    driver: LoopDriver, skip: SkipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates of a class are measured on the launches of its convolutions, on a refresh and on the last frame."""
    one, other, only = (32, 2, 1, 3), (64, 2, 1, 3), (64, 4, 1, 2)
    few = {"narrow small": (one, other), "wide small": (only,)}
    monkeypatch.setattr(tuning, "candidates", lambda precision, architecture, shape: few[shape])
    milliseconds = iter([3.0, 1.0, 2.0, 0.3, 0.1, 0.2])  # of `one`, `only` and `other`, on either frame
    recorded: list[list[str]] = []
    record = driver.record

    def recording(work: Callable[[int], None]) -> Callable[[int], None]:
        before = len(driver.launched)
        replay = record(work)
        recorded.append(driver.launched[before:])
        return replay

    monkeypatch.setattr(driver, "record", recording)
    monkeypatch.setattr(driver, "timed", lambda work: work(0) or next(milliseconds))
    out = tmp_path / "tuned.json"
    found = tuning.tune(skip, CLIP[:3], out)
    assert found.architecture == "sm_90"
    assert found.times == {"narrow small": {one: (3.0, 0.3), other: (2.0, 0.2)}, "wide small": {only: (1.0, 0.1)}}
    assert found.chosen == {"narrow small": other, "wide small": only}
    assert read_table(out).cuts == shipped().replaced("fp32", "sm_90", found.chosen).cuts
    narrow, wide, *_ = recorded
    assert [len(narrow), len(wide)] == [1, 1] and narrow != wide and recorded[:4] == [narrow, wide, narrow, wide]
    assert list(milliseconds) == [] and driver.guards_hold()


def test_what_cannot_be_tuned_is_refused_and_nothing_is_written(
    driver: LoopDriver, skip: SkipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tuned.json"
    with pytest.raises(FrameError, match="two frames or more"):
        tuning.tune(skip, CLIP[:1], out)
    with pytest.raises(FrameError, match="expected a frame of shape"):
        tuning.tune(skip, [np.zeros((1, 3, 4, 4), np.float32)] * 2, out)
    with pytest.raises(OptionError, match="precision is one of"):
        tuning.tune(skip, CLIP[:2], out, precision="fp8")  # type: ignore[arg-type]
    depthwise = transform(seeded(nn.Conv2d(3, 3, 3, groups=3)), CLIP[0], gate=EXACT)
    with pytest.raises(CompileError, match="no convolution"):
        tuning.tune(depthwise, CLIP[:2], out)
    out.write_text("mine")
    with pytest.raises(ArtifactError, match="exists"):
        tuning.tune(skip, CLIP[:2], out)
    assert out.read_text() == "mine" and list(tmp_path.iterdir()) == [out]


@pytest.mark.gpu
def test_tuning_on_a_gpu(skip: SkipModel, tmp_path: Path) -> None:
    try:
        open_driver()
    except DeviceError as error:
        pytest.skip(str(error))
    out = tmp_path / "tuned.json"
    found = tuning.tune(skip, CLIP[:3], out, precision="fp16")
    assert all(time > 0 for cuts in found.times.values() for times in cuts.values() for time in times)
    assert compile_engine(skip, f"cuda:{found.architecture}", precision="fp16", tuned=out).stream()
