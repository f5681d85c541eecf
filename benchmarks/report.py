"""What the benchmarks of whole networks share: compile, compare with dense engines, print, and JSON."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.export import ExportedProgram

from skipfx.bench.compare import REFRESH, STILL, STREAM, Clip, Comparison, compare, ticks
from skipfx.bench.dense import ENGINES
from skipfx.bench.timing import Spread, Timing, machine
from skipfx.runtime.engine import Engine

NAMES = {STREAM: "the clip", STILL: "a still frame", REFRESH: "every frame a refresh"}


def parser(description: str, frames: int) -> argparse.ArgumentParser:
    """The options that all these benchmarks take."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    found.add_argument("--frames", type=int, default=frames, help="frames of the clip")
    found.add_argument("--rounds", type=int, default=5, help="turns of every engine")
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts")
    found.add_argument("--against", nargs="+", default=list(ENGINES), help="dense engines")
    found.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return found


def measure(
    engine: Engine, program: ExportedProgram, clip: Clip, options: argparse.Namespace, console: Console
) -> dict[int, Comparison]:
    """The comparison at every thread count."""
    found = {}
    with Progress(console=console, transient=True) as progress:
        for threads in options.threads:
            task = progress.add_task("", total=ticks(options.against, options.rounds))

            def tick(text: str, steps: int, task: Any = task) -> None:
                progress.update(task, description=text, advance=steps)

            pinned = Engine(engine.program, threads)
            found[threads] = compare(pinned, program, clip, options.against, options.rounds, tick)
    return found


def document(comparisons: dict[int, Comparison], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, as data."""
    return {
        "machine": machine(),
        **facts,
        "threads": {
            str(threads): {
                "milliseconds": {name: _milliseconds(timing) for name, timing in {**c.dense, **c.stream}.items()},
                "fastest dense": c.fastest,
                "speed-up": {NAMES[way]: _spread(c.speedup(way)) for way in NAMES},
                "not measured": c.unavailable,
            }
            for threads, c in comparisons.items()
        },
    }


def show(
    comparisons: dict[int, Comparison], facts: dict[str, Any], options: argparse.Namespace, console: Console
) -> None:
    """Prints the figures, as tables or as JSON on standard output."""
    data = document(comparisons, facts)
    if options.json:
        print(json.dumps(data, indent=2))
        return
    for name, value in facts.items():
        console.print(f"{name}: {value}")
    for threads, comparison in comparisons.items():
        table = Table(
            "engine", "ms per frame", "p10-p90", "speed-up", title=f"threads: {threads}", title_justify="left"
        )
        for name, timing in {**comparison.dense, **comparison.stream}.items():
            seconds = timing.seconds
            gain = f"{comparison.speedup(name).median:.2f}x" if name in NAMES else ""
            table.add_row(name, f"{seconds.median * 1e3:.2f}", _range(seconds), gain)
        console.print(table)
        console.print(f"speed-up: against {comparison.fastest}, the fastest dense engine, round by round")
    console.print(f"machine: {data['machine']}")


def quiet_console(options: argparse.Namespace) -> Console:
    """Where text goes: standard output, or standard error when that belongs to JSON."""
    return Console(stderr=bool(options.json))


def _milliseconds(timing: Timing) -> dict[str, float]:
    return {name: value * 1e3 for name, value in _spread(timing.seconds).items()}


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "p10": spread.p10, "p90": spread.p90}


def _range(spread: Spread) -> str:
    return f"{spread.p10 * 1e3:.2f}-{spread.p90 * 1e3:.2f}"


def share(values: Sequence[float]) -> str:
    """A mean share as per cent."""
    return f"{100 * sum(values) / len(values):.1f} %"
