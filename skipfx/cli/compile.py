"""`skipfx compile`."""

from pathlib import Path
from typing import Annotated

import typer

from skipfx.build import compile_engine
from skipfx.cli.command import with_records
from skipfx.cli.options import Overwrite, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output
from skipfx.model import SkipModel


@with_records
def command(
    skip: Annotated[
        Path, typer.Argument(metavar="SKIP", help="From skipfx transform (.skip.pt2).", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="File to write, OUT.skipfx.", show_default=False)
    ],
    output: Output,
    target: Annotated[
        str,
        option("--target", "cpu for this machine, or cpu:NAME such as cpu:x86-64-v3 or cpu:znver4.", "cpu"),
    ] = "cpu",
    dense_above: Annotated[
        float, option("--dense-above", "Share of the pixels from which on a frame is computed as a whole.", "0.6")
    ] = 0.6,
    overwrite: Overwrite = False,
) -> None:
    """Compiles a transformed model to native code: one file, which runs without PyTorch and without a compiler."""
    check_output(out, overwrite=overwrite)
    with output.working(f"loading {skip}"):
        model = SkipModel.load(skip)
    with output.working(f"compiling {skip}"):
        engine = compile_engine(model, target, dense_above=dense_above)
    engine.save(out, overwrite=overwrite)
    size = out.stat().st_size
    facts = {
        "out": str(out),
        "bytes": size,
        "level": engine.program.level,
        "frames": engine.program.frames,
        "sparse_macs": engine.total_macs,
        "state_bytes": engine.state_bytes,
    }
    shapes = ", ".join("x".join(map(str, shape)) for shape in engine.program.frames)
    output.show(
        f"frames   {shapes}\n"
        f"code     for {engine.program.level}\n"
        f"state    {engine.state_bytes / 2**20:.1f} MiB per stream\n"
        f"wrote    {out}, {size / 2**20:.1f} MiB",
        facts,
    )
