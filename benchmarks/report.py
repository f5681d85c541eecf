"""What the benchmarks of whole networks share: their options, the comparison with dense engines, tables and JSON."""

import argparse
import json
from collections.abc import Mapping
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
from skipfx.runtime.engine import Program
from skipfx.runtime.onnx_engine import OnnxProgram

CONSOLE, ASIDE = Console(width=WIDTH, highlight=False), Console(stderr=True)


def parser(description: str, frames: int) -> argparse.ArgumentParser:
    """The options that all these benchmarks take."""
    found = argparse.ArgumentParser(
        description=description.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    found.add_argument("--frames", type=int, default=frames, help="frames of the clip")
    found.add_argument("--rounds", type=int, default=3, help="turns of every engine")
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts")
    found.add_argument("--against", nargs="+", default=list(ENGINES), help="dense engines")
    found.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return found


class Report:
    """The figures of a benchmark: printed as they come, or as one JSON document at the end.

    Args:
        options: of the command, from `parser`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.machine = options, machine()
        self.parts: dict[str, Any] = {}

    def add(
        self, name: str, facts: dict[str, Any], program: ExportedProgram, stream: Program | OnnxProgram, clip: Clip
    ) -> None:
        """Times a stream in all ways beside dense engines, at every thread count.

        Args:
            name: of this part.
            facts: what is known of the stream besides.
            program: what dense engines compute.
            stream: what the stream runs.
            clip: what both see.
        """
        if not self.options.json:
            shown = (f"{what} {f'{value:.4g}' if isinstance(value, float) else value}" for what, value in facts.items())
            CONSOLE.print(f"{name}: {', '.join(shown)}", soft_wrap=True)
        self.parts[name] = {**facts, "threads": {}}
        for threads in self.options.threads:
            found = timings(compared(program, clip, threads, all_ways(stream, clip), self.options))
            self.parts[name]["threads"][threads] = found
            if not self.options.json:
                CONSOLE.print(_table(threads, found))

    def close(self) -> None:
        """Prints the document, or what the machine is."""
        if self.options.json:
            facts = {"machine": self.machine, "frames": self.options.frames, "rounds": self.options.rounds}
            print(json.dumps({**facts, **self.parts}, indent=1))
        else:
            CONSOLE.print("\n".join(machine_lines(self.machine, {})), soft_wrap=True)


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


def _table(threads: int, found: dict[str, Any]) -> Table:
    table = Table(f"{threads} threads", box=None, pad_edge=False)
    for column in ("ms per frame", "10-90 %", f"faster than {found['fastest']}"):
        table.add_column(column, justify="right")
    for name, figures in found["dense"].items():
        table.add_row(name, *cells(figures), "")
    for name, figures in found["stream"].items():
        table.add_row(name, *cells(figures), times(found["speedup"][name]))
    for reason in found["unavailable"].values():
        table.add_row(f"left out {reason}")
    return table
