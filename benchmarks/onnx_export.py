"""Exported ONNX models in stock runtimes: agreement with PyTorch, accuracy, and time against the same runtime, dense.

    python -m benchmarks.onnx_export yolov5n [--runtime openvino] [--model saved.onnx] [--agree 200] [--shares 0.2 0.5]

`--agree` compares with PyTorch frame by frame, `--shares` finds where skipping stops to pay; each does nothing else.
`--model` keeps the exported model, and takes it from there the next time. Needs the data of `benchmarks.data`.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from benchmarks.cases import CASES
from benchmarks.detection import precision
from benchmarks.report import CONSOLE, Report, compared, parser
from benchmarks.thresholds import mean_active
from skipfx import Hold, SkipModel
from skipfx.bench.compare import WARMUP, Clip, Streamed
from skipfx.cli.figures import timings
from skipfx.export import export_onnx
from skipfx.runtime import OnnxEngine, load_onnx
from skipfx.testing import stepper
from skipfx.transformation import transform

GATES = {
    "yolov5n": Hold(threshold=0.27, input_threshold=24 / 255, dilation=1),
    "vdsr": Hold(threshold=0.05, input_threshold=4 / 255),
}
REFRESH_EVERY, TOLERANCE = 50, 1e-4


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=80)
    options_parser.add_argument("network", choices=GATES)
    options_parser.add_argument("--runtime", default="onnxruntime", help="onnxruntime or openvino")
    options_parser.add_argument("--agree", type=int, default=0, help="frames to compare with PyTorch, one by one")
    options_parser.add_argument("--shares", type=float, nargs="+", help="of the picture that change on every frame")
    options_parser.add_argument("--model", type=Path, help="the exported model")
    options = options_parser.parse_args()
    options.against = [options.runtime]
    case, gate = CASES[options.network], GATES[options.network]
    clip = case.frames(options.agree or options.frames)
    frame = torch.from_numpy(clip[0][0])
    skip = transform(case.network(frame), (frame,), gate=gate)
    with TemporaryDirectory() as folder:
        path = options.model or Path(folder) / "model.onnx"
        if not path.exists():
            export_onnx(skip, path)
        engine = load_onnx(path, runtime=options.runtime)
        if options.agree:
            print(json.dumps(agreement(skip, engine, clip), indent=1))
        elif options.shares:
            shares(skip, engine, clip, options)
        else:
            report, facts = Report(options), gate.model_dump() | accuracy(options.network, skip, engine, clip)
            report.add(options.network, facts, skip.program, engine.program, clip)
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
        name: f"median {np.median(found):.1e}, largest {max(found):.1e}, "
        f"{sum(error <= TOLERANCE for error in found)} of {len(found)} frames within {TOLERANCE:.0e}"
        for name, found in errors.items()
    }


def shares(skip: SkipModel, engine: OnnxEngine, clip: Clip, options: Any) -> None:
    """Prints the speed-up of frames of which a share changes: a strip at the left, negative on every other one."""
    streams = {f"{share:.0%}": Streamed(engine.program, flickering(clip, share)) for share in options.shares}
    for threads in options.threads:
        found = timings(compared(skip.program, clip, threads, streams, options))
        speedups = (f"{share} changed: {found['speedup'][share]['median']:.2f}x" for share in streams)
        CONSOLE.print(f"{options.network}, {threads} threads: {', '.join(speedups)}")


def flickering(clip: Clip, share: float) -> Clip:
    """A clip of one picture, of which a strip changes on every frame."""
    other = clip.pictures[0].copy()
    width = round(share * other.shape[1])
    other[:, :width] = 255 - other[:, :width]
    return Clip([other if index % 2 else clip.pictures[0] for index in range(len(clip))], clip.preprocess)


if __name__ == "__main__":
    main()
