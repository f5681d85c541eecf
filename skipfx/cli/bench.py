"""`skipfx bench`."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from torch.export import ExportedProgram

from skipfx.bench.compare import WARMUP, WAYS, Clip, Comparison, activity, all_ways, compare
from skipfx.bench.dense import ENGINES
from skipfx.bench.layers import LayerTime, layer_times
from skipfx.bench.timing import machine
from skipfx.cli.asked import Asked
from skipfx.cli.command import with_records
from skipfx.cli.figures import cells, layer_table, machine_lines, times, timings, warn_of_load
from skipfx.cli.options import (
    AnyPath,
    ClipPath,
    DenseModel,
    Pictures,
    RawSize,
    Runtime,
    Threads,
    Transformation,
    option,
)
from skipfx.cli.output import Output
from skipfx.cli.steps import Ready, make_ready, refuse_model
from skipfx.cli.transforming import dense_program
from skipfx.errors import UsageError
from skipfx.media import open_frames
from skipfx.report import Report
from skipfx.runtime.base_stream import Stats
from skipfx.runtime.engine import Engine


def engines(text: str) -> tuple[str, ...]:
    """Reads names of dense engines, such as "onnxruntime,torch"."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ENGINES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {','.join(ENGINES)}")
    return names


@with_records
def command(
    model: AnyPath,
    clip: ClipPath,
    choices: Transformation,
    pictures: Pictures,
    output: Output,
    against: Annotated[
        Any,
        option("--against", f"Dense engines: some of {','.join(ENGINES)}.", "all", parser=engines, metavar="NAME,..."),
    ] = None,
    dense: DenseModel = None,
    frames: Annotated[int, option("--frames", "Use so many frames of the clip.", "80", min=WARMUP + 1)] = 80,
    rounds: Annotated[int, option("--rounds", "Turns that every engine has.", "3", min=1)] = 3,
    raw_size: RawSize = None,
    threads: Threads = None,
    runtime: Runtime = "onnxruntime",
    per_layer: Annotated[bool, option("--per-layer", "Also time each layer by itself.", "off")] = False,
) -> None:
    """Measures a model on a clip beside engines that compute every frame as a whole.

    Every engine has a process of its own, the same frames and the same threads; they take turns. What is timed goes
    from the network's input tensor to its outputs; reading and preparing pictures is not in it.
    """
    against = against or tuple(ENGINES)
    with open_frames(clip, raw_size=raw_size, limit=frames) as source:
        found = list(source)
    ready = make_ready(model, found[0], Asked(choices, pictures, output, runtime), threads)
    if per_layer and not isinstance(ready.engine, Engine):
        raise UsageError(f"--per-layer: {model} runs in {runtime}, which is not timed layer by layer")
    material = Clip(found, ready.preprocess)
    program = _program(model, ready, dense, material, choices.trust_pickle)
    facts = machine()
    warn_of_load(facts, output)
    with output.progress("counting", len(found)) as advance:
        stats = activity(ready.engine, material, advance)
    with output.progress("timing", (len(against) + len(WAYS)) * (rounds + 1)) as advance:
        streams = all_ways(ready.engine.program, material)
        result = compare(program, material, ready.engine.threads, streams, against, rounds, advance)
    document = _document(result, stats, ready, facts, rounds)
    if per_layer and isinstance(ready.engine, Engine):
        with output.working("timing each layer"):
            document["layers"] = _layers(layer_times(ready.engine, material, rounds), document["layers"])
    output.show(_tables(document, per_layer), document)


def _program(path: Path, ready: Ready, dense: Path | None, clip: Clip, trust_pickle: bool) -> ExportedProgram:
    if ready.skip is not None:
        refuse_model(path, dense)
        return ready.skip.program
    if dense is None:
        raise UsageError(f"{path} holds no model to compare with: give the one it was made of with --model")
    return dense_program(dense, clip[0][0], trust_pickle=trust_pickle)


def _document(
    found: Comparison, stats: list[Stats], ready: Ready, facts: dict[str, Any], rounds: int
) -> dict[str, Any]:
    report = Report.model_validate(ready.engine.program.info["report"])
    layers = [
        {
            "name": layer.name,
            "macs": layer.macs * layer.positions,
            "active_fraction": float(np.mean([frame.layers[layer.name] for frame in stats])),
        }
        for layer in ready.engine.program.layers
    ]
    return {
        **timings(found),
        "active_fraction": float(np.mean([frame.active_fraction for frame in stats])),
        "sparse_share": report.sparse_share,
        "layers": layers,
        "frames": len(stats),
        "rounds": rounds,
        "threads": ready.engine.threads,
        "machine": facts,
    }


def _tables(found: dict[str, Any], per_layer: bool) -> RenderableType:
    parts: list[RenderableType] = [_engines(found), "", _lines(found)]
    return Group(*parts, "", layer_table(found["layers"])) if per_layer else Group(*parts)


def _engines(found: dict[str, Any]) -> Table:
    table = Table("engine", box=None, pad_edge=False)
    for column in ("ms per frame", "10-90 %", f"faster than {found['fastest']}"):
        table.add_column(column, justify="right")
    for name, ms in found["dense"].items():
        table.add_row(f"{name} (dense)", *cells(ms), "")
    for name, ms in found["stream"].items():
        table.add_row(name, *cells(ms), times(found["speedup"][name]))
    return table


def _lines(found: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"active   {found['active_fraction']:.1%} of the MACs that can be skipped, which are "
            f"{found['sparse_share']:.1%} of the model's; mean over {found['frames']} frames",
            f"timing   input tensor to outputs, {found['threads']} thread(s), {found['rounds']} rounds in turns; "
            f"{found['fastest']} is the fastest dense engine of those here",
            *machine_lines(found["machine"], found["unavailable"]),
        ]
    )


def _layers(times: list[LayerTime], shares: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each layer took, in microseconds, beside what it did."""
    known = {layer["name"]: layer for layer in shares}
    layers = []
    for one in times:
        share = known.get(one.name, {"name": one.name, "macs": 0, "active_fraction": None})
        micros = {"compute": 1e6 * one.compute, "listing": 1e6 * one.listing, "full": 1e6 * one.full}
        realised = one.realised(share["active_fraction"]) if share["active_fraction"] is not None else None
        layers.append({**share, "microseconds": micros, "realised": realised})
    return layers
