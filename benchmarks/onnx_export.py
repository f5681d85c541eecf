"""Exported ONNX models in stock runtimes: agreement with PyTorch, accuracy, and time against the same runtime, dense.

    python -m benchmarks.onnx_export yolov5n [--runtime openvino] [--agree 200] [--model saved.onnx] [--json]

Needs the clips and networks of `benchmarks.data`. `--model` keeps the exported model, and takes it from there the next
time: the exporter needs minutes for a detector.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from benchmarks.cases import CASES
from benchmarks.detection import precision
from benchmarks.report import Report, parser
from benchmarks.thresholds import mean_active
from skipfx import SkipModel
from skipfx.bench.compare import WARMUP, Clip
from skipfx.export import export_onnx
from skipfx.runtime import OnnxEngine, load_onnx
from skipfx.testing import stepper

THRESHOLDS = {"yolov5n": 0.25, "vdsr": 0.05}
REFRESH_EVERY, TOLERANCE = 50, 1e-4


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=80)
    options_parser.add_argument("network", choices=THRESHOLDS)
    options_parser.add_argument("--runtime", default="onnxruntime", help="onnxruntime or openvino")
    options_parser.add_argument("--agree", type=int, default=0, help="frames to compare with PyTorch, one by one")
    options_parser.add_argument("--model", type=Path, help="the exported model")
    options_parser.add_argument("--threshold", type=float, help="share of a value's RMS")
    options = options_parser.parse_args()
    options.against = [options.runtime]
    case, threshold = CASES[options.network], options.threshold or THRESHOLDS[options.network]
    clip = case.frames(max(options.frames, options.agree))
    skip = case.transformed(torch.from_numpy(clip[0][0]), threshold, case.input_threshold)
    facts: dict[str, Any] = {"threshold": threshold, "input threshold": case.input_threshold}
    with TemporaryDirectory() as folder:
        path = options.model or Path(folder) / "model.onnx"
        if not path.exists():
            export_onnx(skip, path)
        engine = load_onnx(path, runtime=options.runtime)
        if options.agree:
            facts |= agreement(skip, engine, clip[: options.agree])
        facts |= accuracy(options.network, skip, engine, clip[: options.frames])
        report = Report(options)
        report.add(options.network, facts, skip.program, engine.program, clip[: options.frames])
        report.close()


def accuracy(network: str, skip: SkipModel, engine: OnnxEngine, clip: Clip) -> dict[str, Any]:
    """What the outputs are worth: the AP of a detector, else the PSNR against the dense network."""
    module, stream = skip.program.module(check_guards=False), engine.stream()

    def dense(frame: Any) -> list[Any]:
        with torch.no_grad():
            return [leaf.numpy() for leaf in tree_leaves(module(torch.from_numpy(frame)))]

    facts = {"MACs active": mean_active(engine.program, clip), "safe in place": engine.program.manifest.safe_in_place}
    if network == "yolov5n":
        return facts | {"AP": precision(stream, clip), "AP dense": precision(dense, clip)}
    errors = [np.mean((stream(frame) - dense(frame)[0]) ** 2) for (frame,) in clip]
    return facts | {"PSNR": float(10 * np.log10(1 / np.mean(errors[WARMUP:])))}


def agreement(skip: SkipModel, engine: OnnxEngine, clip: Clip) -> dict[str, str]:
    """The largest difference from PyTorch per frame, over the largest value; with refreshes in between.

    A norm that lies at its threshold may open a gate in one and not in the other; from there on to the next refresh the
    two keep different values, each within its threshold. So the frames within the tolerance are counted.
    """
    step: Callable[..., Any] = stepper(skip)
    streams = {"in place": engine.stream(), "copied": engine.stream(in_place=False)}
    errors: dict[str, list[float]] = {name: [] for name in streams}
    for index, (frame,) in enumerate(clip):
        refresh = index % REFRESH_EVERY == 0
        expected = step((frame,), refresh)
        for name, stream in streams.items():
            if refresh:
                stream.refresh()
            pairs = zip(tree_leaves(stream(frame)), expected, strict=True)
            errors[name].append(max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs))
    return {
        f"differences {name}": f"median {np.median(found):.1e}, largest {max(found):.1e}, "
        f"{sum(error <= TOLERANCE for error in found)} of {len(found)} frames within {TOLERANCE:.0e}"
        for name, found in errors.items()
    }


if __name__ == "__main__":
    main()
