"""The training loop: it learns, goes on where it was killed, and is the same alone and among processes."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skipfx.errors import ArtifactError, OptionError, TrainingError, UsageError
from skipfx.model import SkipModel
from skipfx.options import DynConv, Gate, Gumbel, Hold
from skipfx.passes.gate_convolutions import is_gate_parameter
from skipfx.training.checkpoint import CHECKPOINT, LOG
from skipfx.training.loop import TrainOptions, fit
from skipfx.training.loss import open_share
from skipfx.transformation import transform
from tests.networks import seeded

ROOT = Path(__file__).parent.parent.parent
OPTIONS = TrainOptions(steps=6, every=2, rate=1e-3, gate_rate=0.3, beta=0.1)


class Small(nn.Module):
    """A residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x + self.second(torch.relu(self.first(x))))
        return y


def model(gate: Gate) -> SkipModel:
    return transform(seeded(Small()), (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(9)),), gate=gate)


def clips(size: int = 4, length: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Two batches: a bright spot on noise, and where it is."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        clip = 0.02 * torch.rand(size, length, 3, 8, 8, generator=generator)
        for time_ in range(length):
            clip[:, time_, :, 2 : 2 + 2, time_ : time_ + 2] += 1
        found.append((clip, clip.mean(2, keepdim=True).expand(-1, -1, 3, -1, -1)))
    return found


def batches() -> list[tuple[Tensor, Tensor]]:
    """For the command line: in a process group every process takes its share of each batch."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return [(clip[rank::ranks], target[rank::ranks]) for clip, target in clips()]


class SlowBatches:
    """Batches that leave time to be killed."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in clips():
            time.sleep(0.05)
            yield batch


def task(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return (outputs - target).square().mean()


@pytest.mark.parametrize("gate", [Gumbel(block=2), DynConv(target=0.5)])
def test_training_lowers_the_loss_and_shuts_gates(gate: Gate) -> None:
    skip = model(gate)
    options = TrainOptions(steps=40, every=10, rate=1e-2, gate_rate=0.1, beta=1.0)
    rows = fit(skip, clips(), task, options)
    assert [row.step for row in rows] == [10, 20, 30, 40] and not skip.training
    assert rows[-1].task < rows[0].task and rows[-1].open < rows[0].open
    for row in rows:
        assert row.loss == pytest.approx(row.task + row.price, rel=1e-5)
    skip.forward_clip(clips()[0][0])
    assert open_share(skip) < 0.9


def test_mixed_precision_trains_float32_weights() -> None:
    skip = model(Gumbel())
    rows = fit(skip, clips(), task, OPTIONS.model_copy(update={"precision": "bfloat16"}))
    full = fit(model(Gumbel()), clips(), task, OPTIONS)
    # three significant digits of bfloat16, and masks that noise at their edge turns over
    assert rows[0].task == pytest.approx(full[0].task, rel=0.1)
    assert all(value.dtype == torch.float32 for value in skip.parameters())


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = fit(model(Gumbel()), clips(), task, OPTIONS, tmp_path / "whole")
    stopped = model(Gumbel())

    class Stop(Exception):
        pass

    seen = []

    def stop(text: str) -> None:
        seen.append(text)
        if len(seen) == 5:
            raise Stop

    with pytest.raises(Stop):
        fit(stopped, clips(), task, OPTIONS, tmp_path / "part", stop)
    resumed = model(Gumbel())
    rows = fit(resumed, clips(), task, OPTIONS, tmp_path / "part")
    assert rows[:2] == whole[:2] and rows[2].step == 6  # the noise behind the checkpoint is another
    with open(tmp_path / "part" / LOG, newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [2, 4, 6]
    first, last = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["optimizer"] for name in ("whole", "part")
    )
    assert last["param_groups"] == first["param_groups"] and last["param_groups"][0]["lr"] == 0
    again = fit(model(Gumbel()), clips(), task, OPTIONS, tmp_path / "part")
    assert again == rows and sorted(p.name for p in (tmp_path / "part").iterdir()) == [CHECKPOINT, LOG]


def test_gates_train_beside_a_frozen_network() -> None:
    skip = transform(seeded(Small()).requires_grad_(False), (clips()[0][0][0, :1],), gate=Gumbel())
    before = {name: value.clone() for name, value in skip.named_parameters()}
    fit(skip, clips(), task, OPTIONS)
    for name, value in skip.named_parameters():
        assert torch.equal(value, before[name]) != is_gate_parameter(name)


def test_wrong_trainings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a hold gate learns nothing"):
        fit(model(Hold()), clips(), task, OPTIONS)
    frozen = model(Gumbel()).requires_grad_(False)
    with pytest.raises(UsageError, match="all are frozen"):
        fit(frozen, clips(), task, OPTIONS)
    with pytest.raises(UsageError, match="no batches"):
        fit(model(Gumbel()), [], task, OPTIONS)
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        fit(model(Gumbel()), clips(), lambda outputs, target: task(outputs, target) * float("nan"), OPTIONS)
    with pytest.raises(OptionError, match=r"steps: .*greater than or equal to 1"):
        TrainOptions(steps=0)
    fit(model(Gumbel()), clips(), task, OPTIONS, tmp_path)
    with pytest.raises(ArtifactError, match="another model or other options"):
        fit(model(DynConv(target=0.5)), clips(), task, OPTIONS, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"half a f")
    with pytest.raises(ArtifactError, match="not a readable checkpoint"):
        fit(model(Gumbel()), clips(), task, OPTIONS, tmp_path)


def command(path: Path, data: str, steps: int, *more: str) -> list[str]:
    words = f"train {path} --data tests.training.test_loop:{data} --task tests.training.test_loop:task --every 2"
    return [
        *words.split(),
        "--steps",
        str(steps),
        "--gate-rate",
        "0.1",
        "-o",
        str(path.with_name("out.skip.pt2")),
        *more,
    ]


def test_two_processes_are_as_good_as_one(tmp_path: Path) -> None:
    path = tmp_path / "model.skip.pt2"
    model(Gumbel()).save(path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "log"
    words = [sys.executable, "-m", "skipfx", *command(path, "batches", 8, "--folder", str(folder))]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [subprocess.Popen(words, cwd=ROOT, env={**shared, "RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(120) for process in both] == [0, 0]
    alone = fit(model(Gumbel()), clips(), task, TrainOptions(steps=8, every=2, gate_rate=0.1))
    with open(folder / LOG, newline="") as file:
        found = [float(row["loss"]) for row in csv.DictReader(file)]
    # the noise of each process is its own: four clips of three frames leave a few per cent
    assert found == pytest.approx([row.loss for row in alone], rel=0.1)
    assert SkipModel.load(tmp_path / "out.skip.pt2").parameters()


def test_a_killed_training_loses_at_most_one_interval(tmp_path: Path) -> None:
    path, folder = tmp_path / "model.skip.pt2", tmp_path / "log"
    model(Gumbel()).save(path)
    start = command(path, "SlowBatches", 200, "--folder", str(folder))
    process = subprocess.Popen([sys.executable, "-m", "skipfx", *start], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (folder / LOG).exists() or len((folder / LOG).read_text().splitlines()) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = torch.load(folder / CHECKPOINT, weights_only=True)["rows"]
    assert len(done) >= 3 and not (tmp_path / "out.skip.pt2").exists()
    seen: list[str] = []
    options = TrainOptions(steps=200, every=2, gate_rate=0.1)

    class Enough(Exception):
        pass

    def watch(text: str) -> None:
        seen.append(text)
        if len(seen) == 2:
            raise Enough

    with pytest.raises(Enough):
        fit(SkipModel.load(path), clips(), task, options, folder, watch)
    with open(folder / LOG, newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(2, 2 * len(done) + 1, 2))
