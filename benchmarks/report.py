"""What the benchmarks of whole networks share: compare with dense engines, print, and JSON."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.export import ExportedProgram

from skipfx.bench.compare import Clip, Comparison, Streamed, all_ways, compare
from skipfx.bench.dense import ENGINES
from skipfx.bench.timing import machine
from skipfx.cli.figures import cells, machine_lines, times, timings
from skipfx.cli.output import WIDTH
from skipfx.runtime.engine import Engine

CONSOLE, ASIDE = Console(width=WIDTH, highlight=False), Console(stderr=True)


def parser(description: str, frames: int, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that all these benchmarks take."""
    found = argparse.ArgumentParser(
        description=description.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    found.add_argument("--frames", type=int, default=frames, help="frames of the clip")
    found.add_argument("--rounds", type=int, default=rounds, help="turns of every engine")
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts")
    found.add_argument("--against", nargs="+", default=list(ENGINES), help="dense engines")
    found.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return found


def run(
    engine: Engine, program: ExportedProgram, clip: Clip, facts: dict[str, Any], options: argparse.Namespace
) -> None:
    """Compares at every thread count and prints the figures, as tables or as JSON on standard output."""
    before, streams = machine(), all_ways(engine.program, clip)
    found = {threads: compared(program, clip, threads, streams, options) for threads in options.threads}
    if options.json:
        measured = {str(threads): timings(comparison) for threads, comparison in found.items()}
        print(json.dumps({"machine": before, **facts, "threads": measured}, indent=2))
        return
    for name, value in facts.items():
        CONSOLE.print(f"{name}: {value}")
    for threads, comparison in found.items():
        CONSOLE.print(_table(threads, comparison))
    for line in machine_lines(before, next(iter(found.values())).unavailable):
        CONSOLE.print(line, soft_wrap=True)


def compared(
    program: ExportedProgram, clip: Clip, threads: int, streams: Mapping[str, Streamed], options: argparse.Namespace
) -> Comparison:
    """Compares, and shows on standard error how far it is."""
    with Progress(console=ASIDE, transient=True) as progress:
        steps = (len(options.against) + len(streams)) * (options.rounds + 1)
        task = progress.add_task(f"{threads} threads", total=steps)

        def tick(text: str, done: int) -> None:
            progress.update(task, description=text, advance=done)

        return compare(program, clip, threads, streams, options.against, options.rounds, tick)


def share(values: Sequence[float]) -> str:
    """A mean share as per cent."""
    return f"{100 * sum(values) / len(values):.1f} %"


def _table(threads: int, comparison: Comparison) -> Table:
    data = timings(comparison)
    table = Table(f"{threads} threads", "ms per frame", "10-90 %", f"over {comparison.fastest}, round by round")
    for name, figures in data["dense"].items():
        table.add_row(name, *cells(figures), "")
    for name, figures in data["stream"].items():
        table.add_row(name, *cells(figures), times(data["speedup"][name]))
    return table
