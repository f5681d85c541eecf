"""Our convolution kernel beside dense libraries, shape by shape, at 100, 5 and 1 % of the positions at random.

    python -m benchmarks.kernels [--shapes hrnet "resnet50 3x3"] [--threads 1 2] [--rounds 5] [--json]

What is timed is `COPIES` convolutions on one input, bias included: with a dense library as a network, with skipfx as
the compiled rows that compute the given positions, hold test and write included, the list of positions given. Every
engine has a process of its own; they take turns on each shape. "faster" above 1 means that we are faster than the
fastest library; the other ratios are the rate per active position, over that at 100 %. A share of a small map may be
less than a register tile, and a call costs the same for any count. The figures are medians over the rounds, with their
range.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.convolutions import COPIES, SHAPES, Convolution
from benchmarks.kernel_step import positions, prepared
from benchmarks.report import ASIDE, CONSOLE
from skipfx.bench.dense import ENGINES, EngineUnavailable, built, saved
from skipfx.bench.timing import Runner, Step, Timing, interleave, machine, ratio
from skipfx.bench.worker import Worker
from skipfx.cli.figures import machine_lines, spread
from skipfx.runtime.kernels.table import TILE

SHARES = {"skipfx 100 %": 1.0, "skipfx 5 %": 0.05, "skipfx 1 %": 0.01}
DENSE, *SPARSE = SHARES
FILLED = f", of {TILE} positions or more"
OWN_LAYOUT = ("onnxruntime", "openvino")  # these convert what they take and give
WARMUP, CALLS, PAUSE = 2, 3, 0.06  # of a block; threads of the engine before spin for up to 0.05 s


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=[""], help="parts of names, such as hrnet or dw; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every engine on every shape; default: 5")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts; default: 1 2")
    parser.add_argument("--against", nargs="*", default=list(ENGINES), help="dense libraries; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options = parser.parse_args()
    shapes = [shape for shape in SHAPES if any(part in shape.name for part in options.shapes)]
    if not shapes:
        parser.error(f"--shapes: none of {', '.join(shape.name for shape in SHAPES)}")
    facts = machine()
    document: dict[str, Any] = {"machine": facts, "threads": {}}
    networks = networks_of(shapes, options.against)
    for threads in options.threads:
        timings, missing = measure(shapes, threads, networks, options.rounds)
        found = document["threads"][threads] = figures(shapes, timings)
        if not options.json:
            CONSOLE.print(table(threads, found))
            CONSOLE.print("\n".join(summary_lines(found["summary"])))
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        CONSOLE.print("\n".join(machine_lines(facts, missing)), soft_wrap=True)


def networks_of(shapes: Sequence[Convolution], against: Sequence[str]) -> dict[str, list[bytes]]:
    """Per library, the shapes in the format that it takes."""
    networks: dict[str, list[bytes]] = {name: [] for name in against}
    for shape in track(shapes, "saving", console=ASIDE, transient=True):
        programs = {summed: shape.program(summed) for summed in (True, False)}
        for name, found in networks.items():
            found.append(saved(name, programs[name in OWN_LAYOUT]))
    return networks


def measure(
    shapes: Sequence[Convolution], threads: int, networks: dict[str, list[bytes]], rounds: int
) -> tuple[list[dict[str, Timing]], dict[str, str]]:
    """Per shape, what a call took each engine; and which libraries could not run, with the reason."""
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name in track([*networks, *SHARES], "starting", console=ASIDE, transient=True):
            build, more = (_ours, ()) if name in SHARES else (_dense, (networks[name],))
            try:
                runners[name] = stack.enter_context(Worker(build, name, shapes, threads, *more))
            except EngineUnavailable as error:
                unavailable[name] = str(error)
        found: list[dict[str, list[tuple[float, ...]]]] = [{name: [] for name in runners} for _ in shapes]
        turns = [index for _ in range(rounds) for index in range(len(shapes))]
        for turn in track(turns, f"timing, {threads} threads", console=ASIDE, transient=True):
            for name, timing in interleave(runners, CALLS, 1, warmup=WARMUP, pause=PAUSE).items():
                found[turn][name] += timing.rounds
    return [{name: Timing(tuple(blocks)) for name, blocks in one.items()} for one in found], unavailable


def figures(shapes: Sequence[Convolution], timings: Sequence[dict[str, Timing]]) -> dict[str, Any]:
    """The figures of a thread count as data."""
    found = [_of_shape(shape, timing) for shape, timing in zip(shapes, timings, strict=True)]
    summary = {name: _summary(name, found) for name in ("faster", *SPARSE) if name in found[0]}
    for name in SPARSE:
        summary[f"{name}{FILLED}"] = _summary(name, [one for one in found if one["positions"][name] >= TILE])
    return {"shapes": found, "summary": {name: one for name, one in summary.items() if one}}


def table(threads: int, found: dict[str, Any]) -> Table:
    """The figures, one row per shape."""
    shown = Table(f"{threads} threads", box=None, pad_edge=False)
    for column in ("GMAC/s", "fastest library", "GMAC/s", "ratio", "rate at 5 %", "at 1 %"):
        shown.add_column(column, justify="right")
    for one in found["shapes"]:
        rates, fastest = one["gmacs_per_second"], one.get("fastest")
        beside = (fastest, f"{rates[fastest]:.0f}", _times(one["faster"])) if fastest else ("", "", "")
        shown.add_row(one["shape"], f"{rates[DENSE]:.0f}", *beside, *(_times(one[name]) for name in SPARSE))
    return shown


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Geometric mean and worst of each ratio."""
    return [
        f"{name}: geometric mean of {one['shapes']} {one['mean']:.2f}, worst {one['worst']:.2f} ({one['worst_shape']})"
        for name, one in summary.items()
    ]


def _of_shape(shape: Convolution, timing: dict[str, Timing]) -> dict[str, Any]:
    count = shape.out[0] * shape.out[1]
    active = {name: int(positions(shape, SHARES[name]).sum()) if name in SHARES else count for name in timing}
    macs = {name: COPIES * number * shape.macs for name, number in active.items()}
    one: dict[str, Any] = {
        "shape": shape.name,
        "positions": active,
        "microseconds": {name: spread(taken.seconds, 1e6 / COPIES) for name, taken in timing.items()},
        "gmacs_per_second": {name: macs[name] / 1e9 / taken.seconds.median for name, taken in timing.items()},
    }
    for name in SPARSE:
        one[name] = spread(ratio(timing[DENSE], timing[name]), macs[name] / macs[DENSE])
    libraries = [name for name in timing if name not in SHARES]
    if libraries:
        one["fastest"] = min(libraries, key=lambda name: timing[name].seconds.median)
        one["faster"] = spread(ratio(timing[one["fastest"]], timing[DENSE]))
    return one


def _ours(name: str, shapes: Sequence[Convolution], threads: int) -> Iterator[Step]:
    return _turns([prepared(shape, SHARES[name], threads)[1] for shape in shapes])


def _dense(name: str, shapes: Sequence[Convolution], threads: int, networks: Sequence[bytes]) -> Iterator[Step]:
    engines = [built(name, network, threads) for network in networks]
    return _turns([partial(engine, shape.frame) for engine, shape in zip(engines, shapes, strict=True)])


def _turns(steps: Sequence[Step]) -> Iterator[Step]:
    """A block of calls of one step, a block of the next, for ever."""
    return (step for step in cycle(steps) for _ in range(WARMUP + CALLS))


def _summary(name: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric mean and worst of a ratio; nothing of no shapes."""
    if not found:
        return {}
    values = [one[name]["median"] for one in found]
    mean, worst = float(np.exp(np.mean(np.log(values)))), int(np.argmin(values))
    return {"mean": mean, "worst": values[worst], "worst_shape": found[worst]["shape"], "shapes": len(found)}


def _times(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['p10']:.2f}-{values['p90']:.2f})"


if __name__ == "__main__":
    main()
