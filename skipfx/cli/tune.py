"""`skipfx tune`."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from skipfx.cli.asked import pictures_for
from skipfx.cli.command import with_records
from skipfx.cli.options import ClipPath, Overwrite, Pictures, RawSize, SkipPath, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output
from skipfx.cli.transforming import frame_shapes
from skipfx.media import open_frames
from skipfx.model import SkipModel
from skipfx.runtime.kernels.table import PRECISIONS, Precision
from skipfx.tuning import Tuned, tune


@with_records
def command(
    skip: SkipPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="File to write, OUT.json.", show_default=False)
    ],
    clip: ClipPath,
    output: Output,
    precision: Annotated[
        str, option("--precision", f"What the GPU rounds operands to: {', '.join(PRECISIONS)}.", "fp32")
    ] = "fp32",
    frames: Annotated[
        int, option("--frames", "Frames of the clip; the first, a refresh, and the last are measured.", "8", min=2)
    ] = 8,
    raw_size: RawSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Measures on the GPU at hand how its convolutions are best cut up, for skipfx compile --tuned OUT.

    OUT is the table that ships, with the fastest schedules for the shapes of this network, this precision and this
    GPU. It needs nvcc, and compiles the convolutions anew for every schedule that it tries.
    """
    check_output(out, overwrite=overwrite)
    with open_frames(clip, raw_size=raw_size, limit=frames) as source:
        found = list(source)
    with output.working(f"loading {skip}"):
        model = SkipModel.load(skip)
    preprocess = pictures_for(skip, model.preprocess, frame_shapes(model), Pictures())
    with output.working(f"tuning {skip}"):
        pictures = [preprocess(picture) for picture in found]
        tuned = tune(model, pictures, out, precision=cast(Precision, precision), overwrite=overwrite)
    output.show(_text(out, tuned), _document(out, tuned))


def _document(out: Path, tuned: Tuned) -> dict[str, Any]:
    classes = {
        shape: {
            "schedule": tuned.chosen[shape],
            "measured": [{"schedule": cut, "refresh_ms": ms[0], "frame_ms": ms[1]} for cut, ms in times.items()],
        }
        for shape, times in tuned.times.items()
    }
    return {"out": str(out), "architecture": tuned.architecture, "classes": classes}


def _text(out: Path, tuned: Tuned) -> str:
    lines = [
        f"for {tuned.architecture}: positions, panels, chunks, stages; milliseconds on a refresh and on the last frame"
    ]
    for shape, times in tuned.times.items():
        for cut, (refresh, frame) in times.items():
            mark = "*" if cut == tuned.chosen[shape] else " "
            lines.append(f"{mark} {shape:12} {' '.join(f'{number:2}' for number in cut)} {refresh:9.3f} {frame:9.3f}")
    return "\n".join([*lines, f"wrote {out}"])
