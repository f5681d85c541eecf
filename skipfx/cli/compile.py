"""`skipfx compile`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from skipfx.build import STAGES, compile_engine
from skipfx.cli.command import with_records
from skipfx.cli.options import Overwrite, SkipPath, option
from skipfx.cli.output import Output
from skipfx.cli.parsers import size
from skipfx.cli.steps import check_output
from skipfx.model import SkipModel
from skipfx.runtime.engine import Engine
from skipfx.runtime.kernels.table import PRECISIONS


@with_records
def command(
    skip: SkipPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="File to write, OUT.skipfx.", show_default=False)
    ],
    output: Output,
    target: Annotated[
        str,
        option("--target", "cpu for this machine, cpu:NAME such as cpu:znver4, or cuda, cuda:sm_80.", "cpu"),
    ] = "cpu",
    precision: Annotated[
        str, option("--precision", f"What a GPU rounds operands to: {', '.join(PRECISIONS)}. Sums are fp32.", "fp32")
    ] = "fp32",
    sizes: Annotated[
        list[Any] | None,
        option(
            "--size",
            "Another size of frames; may be repeated. OUT is a folder then, with an artifact for each.",
            "that of the example",
            parser=size,
            metavar="HxW",
        ),
    ] = None,
    dense_above: Annotated[
        float, option("--dense-above", "Share of the pixels from which on a frame is computed as a whole.", "0.6")
    ] = 0.6,
    tuned: Annotated[
        Path | None,
        option("--tuned", "Table of schedules for a GPU, from skipfx tune.", "the one that ships", metavar="FILE"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compiles a transformed model to native code: one file, which runs without PyTorch and without a compiler."""
    check_output(out, overwrite=overwrite)
    with output.progress(f"loading {skip}", 1 + len(STAGES) * len(sizes or [()])) as advance:
        model = SkipModel.load(skip)
        options: dict[str, Any] = {"precision": precision, "dense_above": dense_above, "tuned": tuned, "tick": advance}
        if sizes:
            several = compile_engine(model, target, sizes=sizes, **options)
            several.save(out, overwrite=overwrite)
            found = [_facts(out / f"{height}x{width}.skipfx", engine) for (height, width), engine in several.items()]
        else:
            engine = compile_engine(model, target, **options)
            engine.save(out, overwrite=overwrite)
            found = [_facts(out, engine)]
    output.show("\n\n".join(map(_text, found)), {"engines": found} if sizes else found[0])


def _facts(path: Path, engine: Engine) -> dict[str, Any]:
    return {
        "out": str(path),
        "bytes": path.stat().st_size,
        "level": engine.program.level,
        "precision": engine.program.precision,
        "frames": engine.program.frames,
        "sparse_macs": engine.total_macs,
        "state_bytes": engine.state_bytes,
    }


def _text(facts: dict[str, Any]) -> str:
    shapes = ", ".join("x".join(map(str, shape)) for shape in facts["frames"])
    return (
        f"frames   {shapes}\n"
        f"code     for {facts['level']}, {facts['precision']}\n"
        f"state    {facts['state_bytes'] / 2**20:.1f} MiB per stream\n"
        f"wrote    {facts['out']}, {facts['bytes'] / 2**20:.1f} MiB"
    )
