"""Thresholds for the stages of YOLOv5n, under which a frame costs least and people are still found.

    python -m benchmarks.calibration [--steps 400] [--seed 1]

A random walk from one threshold for all: a few of them move by a step, and stay there if a frame costs less. The
average precision (AP) must hold on two parts of the clip, so that the thresholds do not fit the first alone. The
network is compiled once; its thresholds are numbers beside it. Needs the data of `benchmarks.data`.
"""

import argparse
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.cases import CASES
from benchmarks.detection import precision
from benchmarks.report import CONSOLE
from benchmarks.thresholds import with_thresholds
from skipfx import Engine, Hold, ops
from skipfx import graph as g
from skipfx.bench.compare import WARMUP, Clip
from skipfx.build import compile_engine
from skipfx.transformation import transform

STAGES = ((0, 1), (2,), (3,), (4,), (5,), (6,), (7, 8), (9,), (10, 13), (14, 17), (18, 20), (21, 23))  # of model.N
LEVELS = tuple(range(8, 33, 2))  # of 256, by which a pixel must move
THRESHOLDS = (0.1, 0.12, 0.15, 0.18, 0.2, 0.22, 0.25, 0.27, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
PARTS = ((0, 0.803), (80, 0.725))  # first frame, and the least AP; the dense network's is 0.804 and 0.750
LENGTH = 80  # frames of a part
POSITION = 7000  # multiply-accumulates that a position costs beside its own: fitted to frames in ONNX Runtime


@dataclass(frozen=True)
class Setting:
    """What is looked for: places in LEVELS, and in THRESHOLDS for each of STAGES."""

    level: int
    thresholds: tuple[int, ...]

    def moved(self, rng: random.Random) -> "Setting":
        """Another one, a few steps away."""
        places = [self.level, *self.thresholds]
        for place in rng.sample(range(len(places)), rng.choice((1, 1, 2, 3))):
            last = len(THRESHOLDS if place else LEVELS) - 1
            places[place] = min(max(places[place] + rng.choice((-3, -2, -1, 1, 2, 3)), 0), last)
        return Setting(places[0], tuple(places[1:]))


def main() -> None:
    """Walks, and prints every setting that is better than those before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, walk = random.Random(options.seed), Walk()
    best = Setting(LEVELS.index(16), (THRESHOLDS.index(0.2),) * len(STAGES))
    least = walk.cost(best, float("inf"))
    for step in range(options.steps):
        other = best.moved(rng)
        if (cost := walk.cost(other, least)) < least:
            best, least = other, cost
            CONSOLE.print(f"{step}: {least:.4f} of the dense network, {walk.facts}", soft_wrap=True)
            CONSOLE.print(f"  frame {LEVELS[best.level]}/255, {walk.patterns(best)}", soft_wrap=True)


class Walk:
    """The network and the clip."""

    def __init__(self) -> None:
        case = CASES["yolov5n"]
        self.clips = [replace(case, start=start).frames(LENGTH) for start, _ in PARTS]
        frame = torch.from_numpy(self.clips[0][0][0])
        gate = Hold(threshold=1, input_threshold=1, dilation=1)
        skip = transform(case.network(frame), (frame,), gate=gate)
        self.program, self.facts = compile_engine(skip).program, ""
        tests = skip.graph_module.graph.find_nodes(op="call_function", target=ops.changed)
        records = [g.record(node) for test in tests for node in test.all_input_nodes[:1]]
        layers = [record.layer for record in records if record.role != "frame"]
        self.stages = [_stage(layer) for layer in layers]

    def patterns(self, setting: Setting) -> dict[str, float]:
        """The thresholds as `skipfx.transform` takes them."""
        values = [THRESHOLDS[place] for place in setting.thresholds]
        return {f"model.{n}.*": value for stage, value in zip(STAGES, values, strict=True) for n in stage}

    def cost(self, setting: Setting, enough: float) -> float:
        """What a frame costs as a share of the dense network; infinite where too little is found, or it is `enough`."""
        thresholds = [THRESHOLDS[setting.thresholds[stage]] for stage in self.stages]
        program = with_thresholds(self.program, thresholds, LEVELS[setting.level] / 255)
        found: list[str] = []
        shares: list[float] = []
        for clip, (start, least) in zip(self.clips, PARTS, strict=True):
            share, ap = self._part(Engine(program, 1).stream(), clip, start)
            if ap < least or (not shares and share >= enough):
                return float("inf")
            shares.append(share)
            found.append(f"AP {ap:.4f}")
        self.facts = ", ".join(found)
        return shares[0]

    def _part(self, stream: Any, clip: Clip, start: int) -> tuple[float, float]:
        weights = {layer.name: layer.height * layer.width * (layer.macs + POSITION) for layer in self.program.layers}
        costs: list[float] = []

        def network(frame: Any) -> Any:
            outputs = stream(frame)
            costs.append(sum(share * weights[name] for name, share in stream.stats.layers.items()))
            return outputs

        ap = precision(network, clip, start)
        return float(np.mean(costs[WARMUP:])) / sum(weights.values()), ap


def _stage(layer: str) -> int:
    """The place in STAGES of a layer called model.N and so on."""
    number = int(layer.split(".")[1])
    return next(place for place, stage in enumerate(STAGES) if number in stage)


if __name__ == "__main__":
    main()
