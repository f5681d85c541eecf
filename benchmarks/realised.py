"""What of the saved multiply-accumulates becomes saved time, network by network, beside dense engines.

    python -m benchmarks.realised [--networks yolov5n hrnet] [--shares 0.05 0.5] [--threads 1 2] [--rounds 3] [--json]

Thresholds are searched under which a stream computes about 5, 10, 25 and 50 % of the multiply-accumulates (MACs) of a
real clip; 100 % is a refresh on every frame. The realised share is

    (time of the fastest dense engine / time of the stream) / (all MACs / active MACs)

round by round, with its median and range. All MACs are those of convolutions; others (squeeze-and-excite, linear
layers) are on both sides of the comparison of times. Also a still frame; a clip whose camera moves, at the thresholds
of the least share but one; memory; and what compiling and loading take. Weights of all networks but yolov5n and vdsr
are random: accuracy means nothing there.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from rich.table import Table

from benchmarks.cases import CASES, Case
from benchmarks.report import ASIDE, CONSOLE, compared, parser
from benchmarks.thresholds import mean_active, search, with_thresholds
from skipfx import Engine, SkipModel, load
from skipfx.bench.compare import REFRESH, STILL, Comparison, Streamed
from skipfx.bench.timing import machine
from skipfx.build import compile_engine
from skipfx.cli.figures import cells, machine_lines, spread, times, timings

ALL, STANDING, MOVING = "100 %, all refreshed", "still frame", "moving camera"


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=12)
    options_parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES), help="which of them")
    options_parser.add_argument("--shares", nargs="+", type=float, default=[0.05, 0.1, 0.25, 0.5], help="of the MACs")
    options = options_parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "frames": options.frames, "rounds": options.rounds}
    document["networks"] = found = {}
    for name in options.networks:
        ASIDE.print(f"{name}: transforming, compiling and searching thresholds")
        found[name] = measure(CASES[name], options)
        if not options.json:
            show(name, found[name])
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        CONSOLE.print("\n".join(machine_lines(document["machine"], {})), soft_wrap=True)


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a network."""
    clip = case.frames(options.frames)
    start = time.perf_counter()
    skip = case.transformed(torch.from_numpy(clip[0][0]), threshold=1, input_threshold=1)
    seconds = {"transform": time.perf_counter() - start}
    engine, steps = compiled(skip)
    streams, thresholds = {}, {}
    for share in options.shares:
        thresholds[f"{share:.0%}"] = found = search(engine.program, clip, share, case.input_threshold)
        streams[f"{share:.0%}"] = Streamed(with_thresholds(engine.program, *found), clip)
    usual = list(streams.values())[min(1, len(streams) - 1)].program
    active = {name: mean_active(streamed.program, clip) for name, streamed in streams.items()} | {ALL: 1.0}
    streams |= {
        ALL: Streamed(usual, clip, REFRESH),
        STANDING: Streamed(usual, clip, STILL),
        MOVING: Streamed(usual, case.handheld(options.frames)),
    }
    return {
        "seconds": seconds | steps,
        "memory": {"state": engine.state_bytes, "held": engine.program.held_bytes, "weights": engine.program.w.nbytes},
        "macs": engine.total_macs,
        "thresholds": thresholds,
        "threads": {
            threads: figures(compared(skip.program, clip, threads, streams, options), active)
            for threads in options.threads
        },
    }


def compiled(skip: SkipModel) -> tuple[Engine, dict[str, float]]:
    """An engine, and the seconds that it took to compile, to compile again from the cache, and to load."""
    with TemporaryDirectory() as folder, mock.patch.dict(os.environ, SKIPFX_CACHE=folder):
        path = Path(folder) / "network.skipfx"
        seconds: dict[str, float] = {}
        for name in ("compile", "compile again"):
            with _timed(seconds, name):
                engine = compile_engine(skip)
        engine.save(path)
        with _timed(seconds, "load"):
            load(path).stream()
    return engine, seconds


def figures(found: Comparison, active: dict[str, float]) -> dict[str, Any]:
    """A comparison as data, with the realised share of the streams whose active share is known."""
    return timings(found) | {
        "active": active,
        "realised": {name: spread(found.speedup(name), share) for name, share in active.items()},
        "memory": found.memory,
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Prints the figures of a network."""
    for threads, one in found["threads"].items():
        table = Table(f"{name}, {threads} threads", box=None, pad_edge=False)
        for column in ("active", "ms per frame", "10-90 %", f"faster than {one['fastest']}", "realised", "MB"):
            table.add_column(column, justify="right")
        for engine, ms in (one["dense"] | one["stream"]).items():
            active, memory = one["active"].get(engine), f"{one['memory'][engine] / 1e6:.0f}"
            realised = times(one["realised"][engine]) if engine in one["realised"] else ""
            faster = times(one["speedup"][engine]) if engine in one["speedup"] else ""
            table.add_row(engine, "" if active is None else f"{active:.1%}", *cells(ms), faster, realised, memory)
        CONSOLE.print(table)
        CONSOLE.print(*(f"left out {reason}" for reason in one["unavailable"].values()), sep="\n", soft_wrap=True)
    seconds = ", ".join(f"{step} {taken:.2f} s" for step, taken in found["seconds"].items())
    memory = ", ".join(f"{what} {size / 1e6:.1f} MB" for what, size in found["memory"].items())
    CONSOLE.print(f"{seconds}; {memory} (state / held {found['memory']['state'] / found['memory']['held']:.3f})\n")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


if __name__ == "__main__":
    main()
