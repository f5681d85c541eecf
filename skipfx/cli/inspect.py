"""`skipfx inspect`."""

from pathlib import Path
from typing import Any

from skipfx.cli.asked import kind_of
from skipfx.cli.command import with_records
from skipfx.cli.options import AnyPath, Example, Exclude, Frames, Pictures, TrustPickle, Until
from skipfx.cli.output import Output
from skipfx.cli.steps import first_picture
from skipfx.cli.transforming import load_with_example
from skipfx.model import SkipModel
from skipfx.report import Report
from skipfx.runtime.artifact import read
from skipfx.runtime.onnx_engine import read_manifest
from skipfx.transformation import inspect


@with_records
def command(
    model: AnyPath,
    output: Output,
    frame: Frames = None,
    until: Until = None,
    exclude: Exclude = None,
    example: Example = None,
    trust_pickle: TrustPickle = False,
) -> None:
    """Says what of a model can be skipped, what not and why, what that is worth, and what state a stream keeps.

    Nothing is compiled or written. Of a transformed or compiled model it shows the report that was made with it.
    """
    with output.working(f"inspecting {model}"):
        if kind_of(model) == "engine":
            program = read(model)
            report = Report.model_validate(program.info["report"])
            code = {"level": program.level, "precision": program.precision}
        else:
            choices = {"frames": frame, "until": tuple(until or ()), "exclude": tuple(exclude or ())}
            report, code = _report(model, choices, example, trust_pickle), {}
    head = f"code for {code['level']}, {code['precision']}\n\n" if code else ""
    output.show(f"{head}{report}", report.model_dump() | code)


def _report(path: Path, choices: dict[str, Any], example: Path | None, trust_pickle: bool) -> Report:
    kind = kind_of(path)
    if kind == "onnx":
        return Report.model_validate(read_manifest(path).report)
    if kind == "skip":
        return SkipModel.load(path).report
    loaded, inputs, _ = load_with_example(path, first_picture(example), Pictures(), trust_pickle=trust_pickle)
    return inspect(loaded, inputs, **choices)
