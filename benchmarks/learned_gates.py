"""Learned gates on a task that fits here: ``python -m benchmarks.learned_gates``.

A small network (`benchmarks.segmentation`) is trained once for each seed; then every gate is put on it, and measured on
walkers and vehicles that nothing learned from. Norm and hold gates give a curve over their thresholds; they need no
training, so the network trains on without them, on the same batches at the same rate as with Gumbel gates. DynConv's
masks take away most of what the blocks do, and get more steps.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from benchmarks.meter import metered
from benchmarks.segmentation import HELD_OUT, TRAINING, Data, SmallNet, batches, clips_of, segmentation_loss, trained
from skipfx.demo.network import mean_iou
from skipfx.model import SkipModel
from skipfx.options import Block, DynConv, Gate, Gumbel, Hold, InputNorm, OutputNorm
from skipfx.training.loop import TrainOptions, fit
from skipfx.training.loss import open_share
from skipfx.training.rates import falling
from skipfx.transformation import transform

FRAMES, CLIP = 16, 8  # of a batch; of a clip, for gates that look at residuals
FIRST_RATE, RATE = 5e-3, 1e-3  # of the network: at first, and with gates
DENSE = Hold(threshold=0, input_threshold=0)
UNTRAINED: list[tuple[Gate, Block]] = [  # with the side of the mask's blocks
    (DENSE, 1),
    *((Hold(threshold=t, input_threshold=12 / 255), 1) for t in (0.1, 0.2, 0.4)),
    *((InputNorm(eps=e), 1) for e in (0.03, 0.06, 0.1)),
    *((OutputNorm(eps=e), 1) for e in (0.6, 1.0, 1.4, 2.0)),
    *((OutputNorm(eps=e), 4) for e in (1.4, 2.0, 3.0, 4.5)),
    *((OutputNorm(eps=e), 8) for e in (1.4, 2.0, 3.0, 4.5, 6.0)),
]
LEARNED: list[tuple[Gate, float]] = [  # with the factor on their price
    *((Gumbel(block=block), beta) for block in (1, 4, 8) for beta in (0.1, 0.03)),
    *((DynConv(target=target), 10) for target in (0.25, 0.5, 0.75)),
]


@dataclass(frozen=True)
class Point:
    """One gate on the network of one seed.

    Attributes:
        gate: its name, with its threshold, target or block.
        family: its name and block; those that differ in thresholds alone make one curve.
        seed: of the network and the training.
        iou: mean intersection over union on held-out clips.
        macs: share of the dense network's multiply-accumulates, frames after the first, learned gates' own included.
        budget: DynConv: share of the blocks' own.
    """

    gate: str
    family: str
    seed: int
    iou: float
    macs: float
    budget: float | None = None


@torch.no_grad()
def measure(skip: SkipModel, seed: int) -> Point:
    """Accuracy and cost of a model on held-out clips."""
    frames, classes = clips_of(HELD_OUT)
    gate, total, budget = skip.options.gate, skip.report.total_macs, None
    if isinstance(gate, DynConv):  # of single images
        outputs = skip.forward_clip(frames.flatten(0, 1)[:, None]).unflatten(0, frames.shape[:2])[:, :, 0]
        budget = open_share(skip)
        gated = sum(item.dense for item in skip.spent[0])
        macs = budget * gated + total - gated
    else:
        outputs, macs = metered(skip, frames)
    iou = mean_iou(outputs.argmax(2).flatten(0, 1).numpy(), classes.flatten(0, 1).numpy())
    if gate == DENSE:
        return Point("dense", "dense 1", seed, iou, 1.0)
    value = next(getattr(gate, name) for name in ("threshold", "eps", "target", "block") if hasattr(gate, name))
    return Point(f"{gate.name} {value:g}", f"{gate.name} {skip.options.mask_block}", seed, iou, macs / total, budget)


def start(seed: int, steps: int) -> nn.Module:
    """The network that all gates of a seed are put on."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    frames = batches(clips_of(TRAINING), seed, FRAMES, 1)
    return trained(SmallNet().train(), frames, steps, FIRST_RATE, lambda o: OneCycleLR(o, FIRST_RATE, steps))


def untrained(net: nn.Module, seed: int, steps: int) -> list[Point]:
    """Norm and hold gates, on the network as it is when it went on without gates."""
    torch.set_num_threads(1)
    longer = trained(net, clips(seed, CLIP), steps, RATE, lambda o: LambdaLR(o, lambda step: falling(step / steps)))
    return [measure(transform(longer, example(), gate=gate, block=block), seed) for gate, block in UNTRAINED]


def learned(net: nn.Module, seed: int, steps: int, gate: Gate, beta: float) -> list[Point]:
    """A gate that learns, from the same network."""
    torch.set_num_threads(1)
    skip = transform(net, example(), gate=gate)
    options = TrainOptions(steps=steps, rate=RATE, beta=beta, every=steps, seed=seed)
    fit(skip, clips(seed, 1 if isinstance(gate, DynConv) else CLIP), segmentation_loss, options)
    found = measure(skip, seed)
    return [replace(found, gate=f"{found.gate}, beta {beta:g}")]


def clips(seed: int, length: int) -> Iterator[Data]:
    """Batches of as many frames as ever, in clips."""
    return batches(clips_of(TRAINING), seed + 100, FRAMES // length, length)


def example() -> tuple[Tensor]:
    """A frame [1, 3, H, W]."""
    return (clips_of(HELD_OUT)[0][0, :1],)


def run(pool: Executor, options: argparse.Namespace, progress: Progress) -> list[Point]:
    """All gates on the networks of all seeds."""
    bar = progress.add_task("dense", total=len(options.seeds) * (2 + len(LEARNED)))
    waiting = []
    firsts = {pool.submit(start, seed, options.dense_steps): seed for seed in options.seeds}
    for first in as_completed(firsts):
        progress.advance(bar)
        net, seed = first.result(), firsts[first]
        for gate, beta in LEARNED:
            steps = options.mask_steps if isinstance(gate, DynConv) else options.steps
            waiting.append(pool.submit(learned, net, seed, steps, gate, beta))
        waiting.append(pool.submit(untrained, net, seed, options.steps))
    points: list[Point] = []
    for done in as_completed(waiting):
        points += done.result()
        progress.update(bar, advance=1, description=points[-1].gate)
    return points


def summary(points: list[Point]) -> Table:
    """Means and ranges over the seeds, and what the better norm gate reaches at the same cost."""
    titles = ("gate", "block", "IoU (range)", "MACs (range)", "norm there", "in such blocks", "budget (range)")
    table = Table(*titles, box=None)
    for family, gate in sorted({(point.family, point.gate) for point in points}):
        mine = [point for point in points if (point.family, point.gate) == (family, gate)]
        block = family.split()[-1]
        norm = ["", ""]
        if family.startswith(("gumbel", "dynconv")):
            norm = [f"{np.mean([norm_at(points, point, side) for point in mine]):.3f}" for side in ("1", block)]
        budget = spread([p.budget for p in mine if p.budget is not None], ".1%") if mine[0].budget else ""
        ious, macs = spread([p.iou for p in mine], ".3f"), spread([p.macs for p in mine], ".1%")
        table.add_row(gate, block, ious, macs, *norm, budget)
    return table


def norm_at(points: list[Point], at: Point, block: str) -> float:
    """The accuracy that the better norm gate reaches at the cost of a point, between its measured thresholds."""
    found = []
    for family in (f"input_norm {block}", f"output_norm {block}"):
        known = sorted((p.macs, p.iou) for p in points if p.seed == at.seed and p.family in (family, "dense 1"))
        if len(known) > 1:
            found.append(np.interp(at.macs, [macs for macs, _ in known], [iou for _, iou in known]))
    return float(max(found))


def spread(values: list[float], form: str) -> str:
    """A mean and the range around it."""
    return f"{np.mean(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def main() -> None:
    """Run every seed and print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="networks to train")
    parser.add_argument("--dense-steps", type=int, default=400, help="steps of the first training")
    parser.add_argument("--steps", type=int, default=150, help="steps with Gumbel gates, or without gates")
    parser.add_argument("--mask-steps", type=int, default=500, help="steps with DynConv masks")
    parser.add_argument("--processes", type=int, default=2, help="trainings side by side, a thread each")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    pool = ProcessPoolExecutor(options.processes, get_context("spawn"))
    with pool, Progress(console=Console(stderr=True)) as progress:
        points = run(pool, options, progress)
    if options.json:
        print(json.dumps([asdict(point) for point in points], indent=1))
    else:
        Console(width=150).print(summary(points))


if __name__ == "__main__":
    main()
