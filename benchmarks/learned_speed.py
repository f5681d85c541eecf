"""What of the multiply-accumulates that learned gates save becomes saved time, beside dense engines.

    python -m benchmarks.learned_speed [--folder trained] [--width 8] [--threads 1] [--rounds 3] [--json]

The network of `benchmarks.segmentation`, `--width` times as wide, is trained, then trained on with each gate; a folder
keeps what was trained for the next call. Gumbel gates are timed on a held-out clip, DynConv masks on its frames as
single images. The realised share is

    (time of the fastest dense engine / time of the stream) / (MACs of the network / active MACs)

round by round, with its median and range. Active multiply-accumulates (MACs) are all that the stream computed, gates
and mask units included.
"""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.report import ASIDE, CONSOLE, compared, parser
from benchmarks.segmentation import (
    CAMERAS,
    HEIGHT,
    HELD_OUT,
    NOISE,
    TRAINING,
    WIDTH,
    SmallNet,
    batches,
    clips_of,
    segmentation_loss,
    trained,
)
from skipfx import SkipModel
from skipfx.bench.compare import REFRESH, STREAM, WARMUP, Clip, Streamed
from skipfx.bench.timing import machine
from skipfx.build import compile_engine
from skipfx.cli.figures import cells, machine_lines, spread, times, timings
from skipfx.demo.scene import PERIOD, Scene
from skipfx.media import Preprocess
from skipfx.options import DynConv, Gate, Gumbel
from skipfx.runtime.engine import Program
from skipfx.training.loop import TrainOptions, fit
from skipfx.transformation import transform

FRAMES, CLIP = 8, 4  # of a batch; of a clip, for gates that look at residuals
FIRST_RATE, RATE = 5e-3, 1e-3
GATES: dict[str, tuple[Gate, float]] = {  # with the factor on their price
    "gumbel-1": (Gumbel(block=1), 0.003),
    "dynconv-50": (DynConv(target=0.5), 10),
    "gumbel-4": (Gumbel(block=4), 0.003),
    "dynconv-25": (DynConv(target=0.25), 10),
}


def main() -> None:
    """Trains what is not trained yet, measures and prints."""
    options_parser = parser(__doc__ or "", frames=20)
    options_parser.set_defaults(threads=[1])
    options_parser.add_argument("--folder", type=Path, help="where trained networks are kept")
    options_parser.add_argument("--width", type=int, default=8, help="times the channels of the small network")
    options_parser.add_argument("--steps", type=int, default=60, help="of each training")
    options = options_parser.parse_args()
    with TemporaryDirectory() as folder:
        skips = networks(options.folder or Path(folder), options.width, options.steps)
    scene = Scene(HEIGHT, WIDTH, CAMERAS[0], walkers=4, noise=NOISE)
    pictures = [scene.frame(HELD_OUT[0] * PERIOD + time)[0] for time in range(options.frames)]
    clip = Clip(pictures, Preprocess())
    document: dict[str, Any] = {"machine": machine(), "width": options.width, "steps": options.steps, "threads": {}}
    for threads in options.threads:
        document["threads"][threads] = found = measure(skips, clip, threads, options)
        if not options.json:
            show(threads, found)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        CONSOLE.print("\n".join(machine_lines(document["machine"], {})), soft_wrap=True)


def networks(folder: Path, width: int, steps: int) -> dict[str, SkipModel]:
    """The network with each gate, trained or as an earlier call kept it."""
    found: dict[str, SkipModel] = {}
    net: nn.Module | None = None
    for name, (gate, beta) in GATES.items():
        path = folder / f"{name}.skip.pt2"
        if not path.exists():
            ASIDE.print(f"training {name}")
            torch.manual_seed(0)
            net = net or dense(width, steps)
            learned(net, gate, beta, steps).save(path)
        found[name] = SkipModel.load(path)
    return found


def dense(width: int, steps: int) -> nn.Module:
    """The network that the gates are put on."""
    frames = batches(clips_of(TRAINING), 0, FRAMES, 1)
    schedule = partial(OneCycleLR, max_lr=FIRST_RATE, total_steps=steps)
    return trained(SmallNet(width).train(), frames, steps, FIRST_RATE, schedule)


def learned(net: nn.Module, gate: Gate, beta: float, steps: int) -> SkipModel:
    """A network trained on with a gate."""
    skip = transform(net, (clips_of(HELD_OUT)[0][0, :1],), gate=gate)
    length = 1 if isinstance(gate, DynConv) else CLIP
    options = TrainOptions(steps=steps, rate=RATE, gate_rate=20 / steps, beta=beta, every=steps)
    fit(skip, batches(clips_of(TRAINING), 1, FRAMES // length, length), segmentation_loss, options)
    return skip


def measure(skips: dict[str, SkipModel], clip: Clip, threads: int, options: Any) -> dict[str, Any]:
    """All figures at a number of threads."""
    streams, active = {}, {}
    for name, skip in skips.items():
        way = REFRESH if isinstance(skip.options.gate, DynConv) else STREAM
        program = compile_engine(skip, threads=threads).program
        streams[name] = Streamed(program, clip, way)
        active[name] = active_macs(program, clip, way) / skip.report.total_macs
    found = compared(next(iter(skips.values())).program, clip, threads, streams, options)
    realised = {name: spread(found.speedup(name), share) for name, share in active.items()}
    return timings(found) | {"active": active, "realised": realised}


def active_macs(program: Program, clip: Clip, way: str) -> float:
    """What a stream computes of a frame, mean over those that count."""
    stream = program.open(1).stream(refresh_every=1 if way == REFRESH else None)
    found = []
    for frames in clip:
        stream(*frames)
        found.append(stream.stats.active_macs)
    return float(np.mean(found[WARMUP:]))


def show(threads: int, found: dict[str, Any]) -> None:
    """Prints the figures at a number of threads."""
    table = Table(f"{threads} threads", box=None, pad_edge=False)
    for column in ("active", "ms per frame", "10-90 %", f"faster than {found['fastest']}", "realised"):
        table.add_column(column, justify="right")
    for engine, ms in found["dense"].items():
        table.add_row(engine, "", *cells(ms), "", "")
    for name, ms in found["stream"].items():
        share, speedup, realised = (found[key][name] for key in ("active", "speedup", "realised"))
        table.add_row(name, f"{share:.1%}", *cells(ms), times(speedup), times(realised))
    CONSOLE.print(table)
    CONSOLE.print(*(f"left out {reason}" for reason in found["unavailable"].values()), sep="\n", soft_wrap=True)


if __name__ == "__main__":
    main()
