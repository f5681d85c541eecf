"""Learned gates on a task that fits here: ``python -m benchmarks.learned_gates``.

A small network segments walkers and vehicles in synthetic fixed-camera clips with sensor noise. It is trained once for
each seed; then every gate is put on it. Norm and hold gates need no training and give a curve over their thresholds;
Gumbel gates and DynConv masks are trained, each for as many steps as the dense network they are compared with goes on.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.meter import metered
from skipfx.demo.network import ConvBlock, Residual, mean_iou, to_input
from skipfx.demo.scene import CLASSES, TRAINING_SEED, Scene
from skipfx.model import SkipModel
from skipfx.options import LEARNED, DynConv, Gate, Gumbel, Hold, InputNorm, OutputNorm
from skipfx.training.loop import TrainOptions, fit
from skipfx.training.loss import open_share
from skipfx.transformation import transform

HEIGHT, WIDTH, NOISE = 64, 96, 2.0
RATE = 5e-4  # of the network, once it is trained
SCENES, LENGTH = 16, 40  # for training; consecutive frames of each
HELD_OUT, HELD_OUT_LENGTH = range(1000, 1006), 24
FRAMES, CLIP = 16, 8  # of a batch; of a clip, for gates that look at residuals
THRESHOLDS: dict[str, list[Gate]] = {
    "hold": [Hold(threshold=t, input_threshold=12 / 255) for t in (0.1, 0.2, 0.4)],
    "input_norm": [InputNorm(eps=e) for e in (0.02, 0.05, 0.1)],
    "output_norm": [OutputNorm(eps=e) for e in (0.4, 0.7, 1.2)],
}
TRAINED: list[tuple[Gate, float, float]] = [  # with the factor on the gates' price, and their learning rate
    *((Gumbel(block=block), 0.1, 0.1) for block in (1, 4, 8)),
    *((DynConv(target=target), 10.0, 0.02) for target in (0.25, 0.5, 0.75)),
]


class SmallNet(nn.Module):
    """A stem at stride 2, two residual blocks there and two at stride 4, both merged. RGB in 0..1 to class logits."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        relu = nn.ReLU()
        self.stem = nn.Sequential(ConvBlock(3, 16, relu, stride=2), Residual(16, relu), Residual(16, relu))
        self.deep = nn.Sequential(ConvBlock(16, 24, relu, stride=2), Residual(24, relu), Residual(24, relu))
        self.merge = ConvBlock(40, 16, relu)
        self.head = nn.Conv2d(16, len(CLASSES), 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Map frames [B, 3, H, W] to logits [B, len(CLASSES), H, W]."""
        fine = self.stem(frame)
        up = F.interpolate(self.deep(fine), scale_factor=2)
        logits: Tensor = self.head(self.merge(torch.cat((up, fine), 1)))
        return F.interpolate(logits, scale_factor=2, mode="bilinear")


@dataclass(frozen=True)
class Point:
    """One gate on the network of one seed.

    Attributes:
        gate: in words.
        seed: of the network and the training.
        iou: mean intersection over union on held-out clips.
        macs: share of the dense network's multiply-accumulates, frames after the first, learned gates' own included.
        budget: DynConv: share of the blocks' own.
    """

    gate: str
    seed: int
    iou: float
    macs: float
    budget: float | None = None


def render(seeds: range, length: int) -> tuple[Tensor, Tensor]:
    """Clips [N, length, 3, H, W] in 0..1 and classes [N, length, H, W] of scenes."""
    clips, masks = [], []
    for seed in seeds:
        frames, truth = zip(*Scene(HEIGHT, WIDTH, seed, walkers=4, noise=NOISE).clip(length), strict=True)
        clips.append(to_input(np.stack(frames)))
        masks.append(torch.from_numpy(np.stack(truth)).long())
    return torch.stack(clips), torch.stack(masks)


def batches(data: tuple[Tensor, Tensor], seed: int, size: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random parts of the clips, without end."""
    rng, (clips, masks) = np.random.default_rng(seed), data
    while True:
        which = [(int(rng.integers(len(clips))), int(rng.integers(clips.shape[1] - length + 1))) for _ in range(size)]
        yield (
            torch.stack([clips[item, start : start + length] for item, start in which]),
            torch.stack([masks[item, start : start + length] for item, start in which]),
        )


def segmentation_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of logits [B, T, C, H, W] and classes [B, T, H, W]."""
    return F.cross_entropy(outputs.flatten(0, 1), target.flatten(0, 1))


def train_dense(net: nn.Module, data: tuple[Tensor, Tensor], seed: int, steps: int, rate: float) -> None:
    """Trains on single frames, as many of them per step as the gates see."""
    optimizer = torch.optim.Adam(net.train().parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    for _, (frames, target) in zip(range(steps), batches(data, seed, FRAMES, 1), strict=False):
        loss = segmentation_loss(net(frames[:, 0])[:, None], target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    net.eval()


@torch.no_grad()
def measure(skip: SkipModel, clips: Tensor, masks: Tensor, seed: int) -> Point:
    """Accuracy and cost of a model on held-out clips."""
    total = skip.report.total_macs
    found, shares, budgets = [], [], []
    for clip in clips:
        outputs = skip.forward_clip(clip[None])
        found.append(outputs[0].argmax(1).numpy())
        if isinstance(skip.options.gate, LEARNED):
            gated = sum(item.dense for item in skip.spent[-1])
            budgets.append(open_share(skip))
            shares.append((budgets[-1] * gated + total - gated) / total)
        else:
            shares.append(metered(skip, clip) / total)
    iou = mean_iou(np.stack(found), masks.numpy())
    budget = float(np.mean(budgets)) if isinstance(skip.options.gate, DynConv) else None
    return Point(skip.report.gate, seed, iou, float(np.mean(shares)), budget)


def run_seed(seed: int, options: argparse.Namespace, tick: Any) -> list[Point]:
    """All gates on the network of one seed."""
    torch.manual_seed(seed)
    data, held_out = render(range(TRAINING_SEED, TRAINING_SEED + SCENES), LENGTH), render(HELD_OUT, HELD_OUT_LENGTH)
    net = SmallNet()
    tick(f"seed {seed}: dense")
    train_dense(net, data, seed, options.dense_steps, 5e-3)
    longer = copy.deepcopy(net)
    train_dense(longer, data, seed + 100, options.steps, RATE)
    example = (held_out[0][0, :1],)
    points = []
    for name, gates in THRESHOLDS.items():
        tick(f"seed {seed}: {name}")
        points += [measure(transform(longer, example, gate=gate), *held_out, seed) for gate in gates]
    exact = transform(longer, example, gate=Hold(threshold=0, input_threshold=0))
    points.append(Point("dense", seed, measure(exact, *held_out, seed).iou, 1.0))
    for gate, beta, gate_rate in TRAINED:
        skip = transform(net, example, gate=gate)
        tick(f"seed {seed}: {skip.report.gate}")
        training = TrainOptions(
            steps=options.steps, rate=RATE, gate_rate=gate_rate, beta=beta, every=options.steps, seed=seed
        )
        length = 1 if isinstance(gate, DynConv) else CLIP
        fit(skip, batches(data, seed + 100, FRAMES // length, length), segmentation_loss, training)
        found = measure(skip, *held_out, seed)
        points.append(Point(f"{found.gate} beta={beta}", *list(asdict(found).values())[1:]))
    return points


def summary(points: list[Point]) -> Table:
    """Means and ranges over the seeds, and what the better norm gate reaches at the same cost."""
    table = Table(
        "gate", "IoU (range)", "MACs (range)", "norm gates at these MACs", "hold at these MACs", "budget", box=None
    )
    for gate in dict.fromkeys(point.gate for point in points):
        mine = [point for point in points if point.gate == gate]
        budget = f"{np.mean([p.budget for p in mine if p.budget is not None]):.1%}" if mine[0].budget else ""
        others = ("", "")
        if gate.startswith(("gumbel", "dynconv")):
            norm = [max(curve(points, name, p) for name in ("input_norm", "output_norm")) for p in mine]
            others = (f"{np.mean(norm):.3f}", f"{np.mean([curve(points, 'hold', p) for p in mine]):.3f}")
        table.add_row(
            gate, spread([p.iou for p in mine], ".3f"), spread([p.macs for p in mine], ".1%"), *others, budget
        )
    return table


def curve(points: list[Point], name: str, at: Point) -> float:
    """The accuracy that a gate's thresholds reach at the cost of a point, between its measured ones."""
    known = sorted((p.macs, p.iou) for p in points if p.seed == at.seed and p.gate.startswith((name, "dense")))
    return float(np.interp(at.macs, [macs for macs, _ in known], [iou for _, iou in known]))


def spread(values: list[float], form: str) -> str:
    """A mean and the range around it."""
    return f"{np.mean(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def main() -> None:
    """Run every seed and print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="networks to train")
    parser.add_argument("--dense-steps", type=int, default=200, help="steps of the first training")
    parser.add_argument("--steps", type=int, default=100, help="steps of what follows, dense or with gates")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    points: list[Point] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(options.seeds) * (1 + len(THRESHOLDS) + len(TRAINED)))
        for seed in options.seeds:
            points += run_seed(seed, options, lambda text: progress.update(task, description=text, advance=1))
    if options.json:
        print(json.dumps([asdict(point) for point in points], indent=1))
    else:
        Console(width=150).print(summary(points))


if __name__ == "__main__":
    main()
