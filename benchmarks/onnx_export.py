"""Exported ONNX models in stock runtimes: agreement with PyTorch, accuracy, and time against the same runtime, dense.

    python -m benchmarks.onnx_export yolov5n [--runtime openvino] [--agree 200] [--model saved.onnx] [--json]

Needs the clips and networks of `benchmarks.data`. `--model` keeps the exported model, and takes it from there the next
time: the exporter needs minutes for a detector.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from benchmarks import detection, super_resolution
from benchmarks.data import data_folder, load_clip
from benchmarks.report import parser, run
from skipfx import Hold, Preprocess, SkipModel
from skipfx.bench.compare import Clip
from skipfx.export import export_onnx
from skipfx.runtime import OnnxEngine, load_onnx
from skipfx.testing import stepper
from skipfx.transformation import transform

REFRESH_EVERY = 50


@dataclass(frozen=True)
class Case:
    """A network, its clip, its thresholds, and what its outputs are worth."""

    model: str
    clip: str
    preprocess: Preprocess
    start: int
    gate: Hold
    accuracy: Callable[..., dict[str, object]]


CASES = {
    "yolov5n": Case(
        "yolov5n_480x640.pt2", "pets/pets_s2l1_480x360.mp4", Preprocess(size=(480, 640)), 0,
        Hold(threshold=0.25, input_threshold=12 / 255), detection.accuracy,
    ),
    "vdsr": Case(
        "vdsr_432x768.pt2", "clips/one_by_one.mp4", Preprocess(size=(432, 768), channels="luma"), 300,
        Hold(threshold=0.05, input_threshold=4 / 255), super_resolution.accuracy,
    ),
}  # fmt: skip


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=80)
    options_parser.add_argument("network", choices=CASES)
    options_parser.add_argument("--runtime", default="onnxruntime", help="onnxruntime or openvino")
    options_parser.add_argument("--agree", type=int, default=0, help="frames to compare with PyTorch, one by one")
    options_parser.add_argument("--model", type=Path, help="the exported model")
    options_parser.add_argument("--threshold", type=float, help="share of a value's RMS")
    options_parser.set_defaults(against=None)
    options = options_parser.parse_args()
    options.against = options.against or [options.runtime]
    case = CASES[options.network]
    gate = case.gate if options.threshold is None else case.gate.model_copy(update={"threshold": options.threshold})
    clip = load_clip(case.clip, case.preprocess, max(options.frames, options.agree), case.start)
    skip = transform(data_folder() / "models" / case.model, (torch.from_numpy(clip[0][0]),), gate=gate)
    with TemporaryDirectory() as folder:
        path = options.model or Path(folder) / "model.onnx"
        if not path.exists():
            export_onnx(skip, path)
        measure(skip, load_onnx(path, runtime=options.runtime), clip, case, options)


def measure(skip: SkipModel, engine: OnnxEngine, clip: Clip, case: Case, options: argparse.Namespace) -> None:
    """Prints agreement, accuracy and times."""
    manifest = engine.program.manifest
    gate, gathered = manifest.options["gate"], engine.total_macs / max(1, skip.report.total_macs)
    facts: dict[str, Any] = {
        "thresholds": f"{gate['threshold']}, of a pixel {gate['input_threshold']:.4f}",
        "gathered": f"{len(manifest.layers)} layers, {gathered:.1%} of the MACs",
        "safe in place": manifest.safe_in_place,
    }
    if options.agree:
        facts |= agreement(skip, engine, clip[: options.agree])
    timed = clip[: options.frames]
    run(engine, skip.program, timed, facts | case.accuracy(skip, engine, timed), options)


def agreement(skip: SkipModel, engine: OnnxEngine, clip: Clip) -> dict[str, str]:
    """The largest difference from PyTorch per frame, over the largest value; with refreshes in between.

    A norm that lies at its threshold may open a gate in one and not in the other; from there on to the next refresh the
    two keep different values, each within its threshold. So the frames beyond the tolerance are counted.
    """
    step = stepper(skip)
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
        f"agreement, {name}": f"median {np.median(found):.1e}, largest {max(found):.1e}; "
        f"{sum(error <= 1e-4 for error in found)} of {len(found)} frames within 1e-04"
        for name, found in errors.items()
    }


if __name__ == "__main__":
    main()
