"""What the benchmarks of whole networks share: compare with dense engines, print, and JSON."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.export import ExportedProgram

from skipfx.bench.compare import WAYS, Clip, Comparison, compare
from skipfx.bench.dense import ENGINES
from skipfx.bench.timing import machine
from skipfx.cli.figures import cells, machine_lines, times, timings
from skipfx.runtime.engine import Engine


def parser(description: str, frames: int) -> argparse.ArgumentParser:
    """The options that all these benchmarks take."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    found.add_argument("--frames", type=int, default=frames, help="frames of the clip")
    found.add_argument("--rounds", type=int, default=5, help="turns of every engine")
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts")
    found.add_argument("--against", nargs="+", default=list(ENGINES), help="dense engines")
    found.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return found


def run(
    engine: Engine, program: ExportedProgram, clip: Clip, facts: dict[str, Any], options: argparse.Namespace
) -> None:
    """Compares at every thread count and prints the figures, as tables or as JSON on standard output."""
    console = Console(stderr=options.json)
    before = machine()
    found = {threads: _compare(Engine(engine.program, threads), program, clip, options) for threads in options.threads}
    if options.json:
        measured = {str(threads): timings(comparison) for threads, comparison in found.items()}
        print(json.dumps({"machine": before, **facts, "threads": measured}, indent=2))
        return
    for name, value in facts.items():
        console.print(f"{name}: {value}")
    for threads, comparison in found.items():
        console.print(_table(threads, comparison))
    for line in machine_lines(before, next(iter(found.values())).unavailable):
        console.print(line)


def share(values: Sequence[float]) -> str:
    """A mean share as per cent."""
    return f"{100 * sum(values) / len(values):.1f} %"


def _compare(engine: Engine, program: ExportedProgram, clip: Clip, options: argparse.Namespace) -> Comparison:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        steps = (len(options.against) + len(WAYS)) * (options.rounds + 1)
        task = progress.add_task(f"{engine.threads} threads", total=steps)

        def tick(text: str, done: int) -> None:
            progress.update(task, description=text, advance=done)

        return compare(engine, program, clip, options.against, options.rounds, tick)


def _table(threads: int, comparison: Comparison) -> Table:
    data = timings(comparison)
    table = Table(f"{threads} threads", "ms per frame", "10-90 %", f"over {comparison.fastest}, round by round")
    for name, figures in data["dense"].items():
        table.add_row(name, *cells(figures), "")
    for name, figures in data["stream"].items():
        table.add_row(name, *cells(figures), times(data["speedup"][name]))
    return table
