"""VDSR on luma, on two clips: active share at a picture quality, and time against dense engines.

    python -m benchmarks.super_resolution [--psnr 45] [--size 216 384] [--clips one_by_one] [--threads 1 2] [--json]

Of the thresholds under which the stream's pictures have the PSNR that is asked for, against those of the dense network,
those that compute least are timed: for each of some thresholds of the frame (`LEVELS`), the largest of the values.
Frames 300 onwards of `one_by_one`, the first of `juggle_720p`, both resized to --size. Needs the clips and networks of
`benchmarks.data`.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from benchmarks.cases import CASES, Case
from benchmarks.report import Report, parser
from benchmarks.thresholds import largest, mean_active, with_thresholds
from skipfx import Engine
from skipfx.bench.compare import WARMUP, Clip
from skipfx.build import compile_engine
from skipfx.runtime.engine import Program

CASE = CASES["vdsr"]
LEVELS = (4, 3, 2, 1.5)  # of 256, by which a pixel must move to count as changed; holding a frame alone costs decibels
CLIPS = {"one_by_one": CASE, "juggle_720p": replace(CASE, clip="clips/juggle_720p.mp4", start=0)}


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=20)
    options_parser.add_argument("--psnr", type=float, default=45, help="the least, in dB")
    options_parser.add_argument("--size", type=int, nargs=2, default=[216, 384], help="height and width")
    options_parser.add_argument("--clips", nargs="+", default=list(CLIPS), choices=list(CLIPS), help="which of them")
    options = options_parser.parse_args()
    preprocess, report = CASE.preprocess.model_copy(update={"size": tuple(options.size)}), Report(options)
    for name in options.clips:
        measure(name, replace(CLIPS[name], preprocess=preprocess), options.psnr, report)
    report.close()


def measure(name: str, case: Case, least: float, report: Report) -> None:
    """Searches the threshold of a clip, and times it."""
    clip = case.frames(report.options.frames)
    skip = case.transformed(torch.from_numpy(clip[0][0]), threshold=1, input_threshold=1)
    base, dense = compile_engine(skip).program, skip.program.module(check_guards=False)
    with torch.no_grad():
        expected = [dense(torch.from_numpy(frame)).numpy() for (frame,) in clip]

    def quality(threshold: float, level: float) -> float:
        return psnr(with_thresholds(base, threshold, level / 255), clip, expected)

    best: tuple[float, float, Program] | None = None
    for level in LEVELS:
        threshold = largest(lambda one, level=level: quality(one, level) >= least)  # type: ignore[misc]
        program = with_thresholds(base, threshold, level / 255)
        reached = psnr(program, clip, expected) >= least
        if reached and (best is None or mean_active(program, clip) < mean_active(best[2], clip)):
            best = threshold, level, program
    if best is None:
        sys.exit(f"{name}: no threshold reaches {least} dB with frames held within {min(LEVELS)} of 256")
    threshold, level, program = best
    facts = {
        "threshold": threshold,
        "input threshold": level / 255,
        "PSNR": psnr(program, clip, expected),
        "MACs active": mean_active(program, clip),
        "size": case.preprocess.size,
    }
    report.add(name, facts, skip.program, program, clip)


def psnr(program: Program, clip: Clip, expected: list[np.ndarray]) -> float:
    """Peak signal over noise of a stream's pictures, in dB, over the frames of a clip that count."""
    stream = Engine(program).stream()
    errors = [np.mean((stream(frame) - wanted) ** 2) for (frame,), wanted in zip(clip, expected, strict=True)]
    return float(10 * np.log10(1 / np.mean(errors[WARMUP:])))


if __name__ == "__main__":
    main()
