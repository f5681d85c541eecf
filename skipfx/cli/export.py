"""`skipfx export`."""

from pathlib import Path
from typing import Annotated

import typer

from skipfx.cli.command import with_records
from skipfx.cli.options import Overwrite, SkipPath, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output
from skipfx.export import export_onnx
from skipfx.model import SkipModel


@with_records
def command(
    skip: SkipPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="File to write, OUT.onnx.", show_default=False)
    ],
    output: Output,
    opset: Annotated[int, option("--opset", "Of the standard operators, 18 to 20.", "20")] = 20,
    dense: Annotated[
        bool, option("--dense", "Keep gates and states, but compute everything: for checks elsewhere.", "off")
    ] = False,
    external_data: Annotated[
        bool, option("--external-data", "Weights in a file of their own, OUT.data.", "off")
    ] = False,
    fp16: Annotated[bool, option("--fp16", "Weights in 16 bits; arithmetic stays in 32.", "off")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Writes an ONNX model that skips in ONNX Runtime, OpenVINO, TensorRT and Triton, with standard operators only.

    State is explicit: skipfx_state_000_in and _out, and so on, zeros at first; skipfx_refresh opens every gate. Beside
    the model stand its manifest, OUT.json, and a configuration for Triton, OUT.config.pbtxt.
    """
    check_output(out, overwrite=overwrite)
    with output.working(f"loading {skip}"):
        model = SkipModel.load(skip)
    with output.working(f"exporting {skip}"):
        manifest = export_onnx(
            model, out, opset=opset, gather=not dense, external_data=external_data, fp16=fp16, overwrite=overwrite
        )
    size = out.stat().st_size
    gathered = sum(layer.macs * layer.positions for layer in manifest.layers) / max(1, model.report.total_macs)
    shapes = ", ".join("x".join(map(str, frame.shape)) for frame in manifest.frames)
    output.show(
        f"frames   {shapes}\n"
        f"gathered {len(manifest.layers)} convolutions, {gathered:.1%} of the MACs\n"
        f"state    {len(manifest.states)} tensors, {manifest.state_bytes / 2**20:.1f} MiB per stream, "
        f"{'safe' if manifest.safe_in_place else 'in part safe'} to bind in place\n"
        f"wrote    {out}, {size / 2**20:.1f} MiB, opset {manifest.opset}",
        {"out": str(out), "bytes": size, "manifest": manifest},
    )
