"""`skipfx transform`."""

from pathlib import Path
from typing import Annotated

import typer

from skipfx.cli.command import with_records
from skipfx.cli.options import Example, ModelPath, Overwrite, Pictures, Transformation, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output, first_picture
from skipfx.cli.transforming import transform_file


@with_records
def command(
    model: ModelPath,
    choices: Transformation,
    pictures: Pictures,
    output: Output,
    out: Annotated[Path | None, option("--out -o", "File to write, OUT.skip.pt2.", "none", metavar="OUT")] = None,
    example: Example = None,
    dry_run: Annotated[bool, option("--dry-run", "Show what would come of it, and write nothing.", "off")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Makes a model stateful: from frame to frame it computes what changed.

    The file holds the original model and what to do with it; it runs in PyTorch (skipfx.SkipModel.load), and
    skipfx compile makes native code of it. Its thresholds are shares of the size of each tensor on an example, so
    give a picture of the camera.
    """
    if out is None and not dry_run:
        raise typer.BadParameter("say where to write with -o OUT.skip.pt2, or pass --dry-run", param_hint="--out")
    if out is not None:
        check_output(out, overwrite=overwrite)
    with output.working(f"transforming {model}"):
        skip = transform_file(model, first_picture(example), choices, pictures)
    if out is not None and not dry_run:
        skip.save(out, overwrite=overwrite)
    written = None if dry_run else str(out)
    output.show(
        f"{skip.report.summary()}\nwrote    {written}" if written else f"{skip.report}\nnothing written (--dry-run)",
        {"out": written, "preprocess": skip.preprocess, "options": skip.options, "report": skip.report},
    )
