"""Measured figures, as data and as text; what bench and demo share."""

from typing import Any

from rich.table import Table

from skipfx.bench.compare import Comparison
from skipfx.bench.timing import Spread
from skipfx.cli.output import Output


def spread(values: Spread, factor: float = 1.0) -> dict[str, float]:
    """A spread as data, each figure times a factor."""
    return {name: factor * getattr(values, name) for name in ("median", "p10", "p90", "mean")}


def timings(found: Comparison) -> dict[str, Any]:
    """A comparison as data, times in milliseconds per frame."""
    return {
        "dense": {name: spread(timing.seconds, 1e3) for name, timing in found.dense.items()},
        "stream": {name: spread(timing.seconds, 1e3) for name, timing in found.stream.items()},
        "unavailable": found.unavailable,
        "fastest": found.fastest,
        "speedup": {way: spread(found.speedup(way)) for way in found.stream},
    }


def cells(ms: dict[str, float]) -> tuple[str, str]:
    """Median and spread of milliseconds, as cells of a table."""
    return f"{ms['median']:.2f}", f"{ms['p10']:.2f} - {ms['p90']:.2f}"


def times(speedup: dict[str, float]) -> str:
    """How many times faster, with the range over the rounds."""
    return f"{speedup['median']:.2f} x ({speedup['p10']:.2f} - {speedup['p90']:.2f})"


def layer_table(layers: list[dict[str, Any]]) -> Table:
    """What each layer took and did; its last line is the sum."""
    table = Table("layer", box=None, pad_edge=False, show_footer=True)
    sums = {name: sum(layer["microseconds"][name] for layer in layers) for name in ("compute", "listing", "full")}
    feet = ("", "", *(f"{sums[name]:.0f}" for name in ("listing", "compute", "full")), "", "")
    columns = ("MMACs", "active", "listing us", "compute us", "full us", "GMAC/s", "realised")
    for column, foot in zip(columns, feet, strict=True):
        table.add_column(column, foot, justify="right")
    for layer in layers:
        micros, macs, share = layer["microseconds"], layer["macs"] / 1e6, layer["active_fraction"]
        spent = tuple(f"{micros[name]:.1f}" for name in ("listing", "compute", "full"))
        done = ("", "", *spent, "", "")
        if share is not None:
            rate = macs * share / 1e3 / (micros["compute"] / 1e6)
            done = (f"{macs:.2f}", f"{share:.1%}", *spent, f"{rate:.1f}", f"{layer['realised']:.2f}")
        table.add_row(layer["name"], *done)
    return table


def machine_lines(facts: dict[str, Any], unavailable: dict[str, str]) -> list[str]:
    """What the figures depend on, and what is missing among them."""
    libraries = ", ".join(f"{name} {number}" for name, number in facts["libraries"].items())
    return [
        f"machine  {facts['cpu']}, {facts['cores']} cores, {' '.join(facts['flags'])}, load before: {facts['load']}",
        f"         Python {facts['python']}, {libraries}",
        *(f"left out {reason}" for reason in unavailable.values()),
    ]


def warn_of_load(facts: dict[str, Any], output: Output) -> None:
    """Says beforehand that other programs will disturb a timing."""
    if facts["load"] is not None and facts["load"] > facts["cores"] / 2:
        output.note(f"other programs use this machine (load {facts['load']}): they will disturb the timing")
