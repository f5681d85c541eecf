"""Architectures of every kind: captured, transformed, compiled, and compared with PyTorch at thresholds 0.

    python -m benchmarks.zoo [NAME ...] [--list] [--frames 10] [--out zoo.jsonl] [--json]

A NAME is a part of a name or family of the built-in list ("resnet", "timm/", "EfficientDet"), or any importable factory
such as `my_package.models:make_net(width=32)`, whose module takes one frame of --shape. Without names the whole list is
tried. All weights are random. Each architecture has a process of its own with a time limit, and its result is written
to --out when it is there; what --out already holds is not tried again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.architectures import ARCHITECTURES, Architecture

SPARSE = 0.95  # of the MACs, for a convolutional architecture
Result = dict[str, Any]


def main() -> None:
    """Tries what is asked for and prints what came of it."""
    options = _parser().parse_args()
    chosen = choose(options.names) if options.names else ARCHITECTURES
    chosen = [replace(one, shape=options.shape) for one in chosen] if options.shape else chosen
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 160)
    if options.list:
        for one in chosen:
            console.print(f"{one.name:<45} {one.family:<16} {one.kind:<14} {one.factory}", soft_wrap=True, markup=False)
        return
    results = try_all(chosen, options)
    if options.json:
        print(json.dumps({"results": results, "summary": summary(results)}, indent=1))
        return
    console.print(table(results))
    for name, value in summary(results).items():
        console.print(f"{name}: {value}")


def choose(names: Sequence[str]) -> list[Architecture]:
    """The architectures that the names mean.

    Raises:
        SystemExit: a name means none.
    """
    found: dict[str, Architecture] = {}
    for name in names:
        if ":" in name:
            found[name] = Architecture(name, "", "mixed", name)
            continue
        matching = [one for one in ARCHITECTURES if name.lower() in f"{one.name} {one.family}".lower()]
        if not matching:
            sys.exit(f"{name}: no architecture of the list is called so; --list shows them all")
        found |= {one.name: one for one in matching}
    return list(found.values())


def try_all(chosen: Sequence[Architecture], options: argparse.Namespace) -> list[Result]:
    """The results of all that can be tried, in the order of the list."""
    known = {result["name"]: result for result in read_results(options.out)}
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(chosen))
        for one in chosen:
            progress.update(bar, description=one.name)
            if one.name not in known:
                known[one.name] = _try(one, options)
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(known[one.name]) + "\n")
            progress.advance(bar)
    return [known[one.name] for one in chosen]


def _try(one: Architecture, options: argparse.Namespace) -> Result:
    facts: Result = {"name": one.name, "family": one.family, "kind": one.kind, "shape": one.shape}
    package = one.factory.partition(":")[0].partition(".")[0]
    missing = [name for name in {one.package, package} if ":" not in name and find_spec(name) is None]
    if missing:
        return {**facts, "skipped": f"{missing[0]} is not installed"}
    asked = json.dumps({"factory": one.factory, "shape": one.shape, "frames": options.frames})
    command = [sys.executable, "-m", "benchmarks.zoo_trial", asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout, check=False)
    except subprocess.TimeoutExpired:
        return {**facts, "error": f"took more than {options.timeout} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {**facts, "error": f"the process ended with {done.returncode}: {last}"}
    return {**facts, **json.loads(lines[-1])}


def summary(results: Iterable[Result]) -> dict[str, Any]:
    """The counts behind the table."""
    tried = [result for result in results if "skipped" not in result]
    verified = [result for result in tried if result.get("ok")]
    plain = [result for result in tried if result["kind"] == "convolutional"]
    sparse = [result for result in plain if result.get("sparse_share", 0) >= SPARSE]
    return {
        "tried": len(tried),
        "families": len({result["family"] for result in tried}),
        "run and verify": len(verified),
        "convolutional": len(plain),
        f"convolutional with at least {SPARSE:.0%} of the MACs sparse": len(sparse),
    }


def table(results: Iterable[Result]) -> Table:
    """One row per architecture."""
    found = Table(
        "architecture", "family", "MACs", "sparse", "error", "exact", "transform", "compile", "islands", box=None
    )
    for result in results:
        found.add_row(result["name"], result["family"], *_cells(result))
    return found


def _cells(result: Result) -> list[str]:
    note = result.get("skipped") or result.get("error")
    if "sparse_share" not in result:
        return ["", "", "", "", "", "", str(note)]
    verified = "ok" in result
    return [
        f"{result['macs'] / 1e6:.0f} M",
        f"{result['sparse_share']:.1%}",
        f"{result['error_against_torch']:.0e}" if verified else "",
        ("yes" if result["equals_refresh"] else "NO") if verified else "",
        f"{result['transform_seconds']:.1f} s",
        f"{result['compile_seconds']:.1f} s" if "compile_seconds" in result else "",
        str(note) if note else "; ".join(f"{island['count']} x {island['reason']}" for island in result["islands"]),
    ]


def read_results(path: Path | None) -> list[Result]:
    """What a file has collected; nothing where there is none."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("names", nargs="*", metavar="NAME", help="what to try; default: the whole list")
    found.add_argument("--list", action="store_true", help="show what would be tried, and stop")
    found.add_argument("--frames", type=int, default=10, help="length of the clip (default: 10)")
    found.add_argument("--shape", type=_shape, metavar="CxHxW", help="of the frame (default: the list's, or 3x128x160)")
    found.add_argument("--timeout", type=float, default=300, help="seconds for one architecture (default: 300)")
    found.add_argument("--out", type=Path, help="file that collects results, one JSON document a line (default: none)")
    found.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return found


if __name__ == "__main__":
    main()
