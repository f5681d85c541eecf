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

from benchmarks.agreement import Agreement, relative_error
from benchmarks.cases import CASES
from benchmarks.detection import precision
from benchmarks.report import ASIDE, CONSOLE, Report, compared, parser
from benchmarks.thresholds import mean_active
from skipfx import Hold, SkipModel
from skipfx.bench.compare import WARMUP, Clip, Streamed
from skipfx.cli.figures import timings
from skipfx.export import export_onnx
from skipfx.runtime import OnnxEngine, load_onnx
from skipfx.testing import stepper
from skipfx.transformation import transform

GATES = {
    "yolov5n": Hold(threshold=0.27, input_threshold=16 / 255, dilation=1),
    "vdsr": Hold(threshold=0.04, input_threshold=1.5 / 255),  # 45.0 dB over 80 frames
}
THRESHOLDS: dict[str, dict[str, float]] = {  # in place of the gate's; of `benchmarks.calibration`
    "yolov5n": {
        "model.[01].*": 0.22, "model.2.*": 0.3, "model.3.*": 0.35, "model.4.*": 0.25, "model.5.*": 0.22,
        "model.[78].*": 0.6, "model.9.*": 0.5, "model.1[0347].*": 0.2, "model.18.*": 0.22, "model.20.*": 0.22,
        "model.2[13].*": 0.35,
    },
    "vdsr": {},
}  # fmt: skip
REFRESH_EVERY, PROGRESS_EVERY, TOLERANCE = 50, 10, 1e-4


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
    skip = transform(case.network(frame), (frame,), gate=gate, thresholds=THRESHOLDS[options.network])
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
    """How far the outputs are from those of PyTorch, frame by frame, with refreshes in between.

    Alone: PyTorch decides for itself what its gates let through. Led: it lets through what the runtime let through; see
    `benchmarks.agreement`, which also counts what it would have decided otherwise, and by how much.
    """
    step, led, copied = stepper(skip), Agreement(skip, engine), engine.stream(in_place=False)
    alone, together, equal = list[float](), list[float](), 0
    for index, (frame,) in enumerate(clip):
        refresh = index % REFRESH_EVERY == 0
        if refresh:
            copied.refresh()
        outputs, expected = led.step(frame, refresh)
        together.append(relative_error(outputs, expected))
        alone.append(relative_error(outputs, step((frame,), refresh)))
        equal += all(map(np.array_equal, outputs, copied.leaves([frame])))
        if index % PROGRESS_EVERY == PROGRESS_EVERY - 1:
            ASIDE.print(f"{index + 1} of {len(clip)} frames: largest {max(together):.1e}")
    found = led.decisions
    return {
        "alone": _summary(alone),
        "led": _summary(together),
        "decided otherwise": f"{found.other} of {found.all}, norms within {found.margin:.1e} of the threshold, "
        f"{found.rounding:.1e} of the largest value",
        "in place and copied": f"the same bits on {equal} of {len(alone)} frames",
    }


def _summary(errors: list[float]) -> str:
    within = sum(error <= TOLERANCE for error in errors)
    return (
        f"median {np.median(errors):.1e}, largest {max(errors):.1e}, "
        f"{within} of {len(errors)} frames within {TOLERANCE:.0e}"
    )


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
