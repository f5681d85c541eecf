"""YOLOv5n on the PETS clip at 640 x 480: accuracy, active share, and time against dense engines.

    python -m benchmarks.detection [--thresholds 0.2 0.25] [--precision 0.8] [--threads 1 2] [--json]

Of the thresholds, the largest is timed under which the average precision (AP) on the clip is what is asked for. Needs
the clips and networks of `benchmarks.data`. The clip is lossy-compressed: sensor noise that a raw camera would show is
not in it.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from benchmarks.cases import CASES
from benchmarks.pets import Detector, average_precision, true_boxes
from benchmarks.report import ASIDE, Report, parser
from benchmarks.thresholds import mean_active, with_thresholds
from skipfx import Engine
from skipfx.bench.compare import Clip
from skipfx.build import compile_engine

THRESHOLDS = [0.2, 0.22, 0.25, 0.27, 0.3]


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=80)
    options_parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS, help="of a value's RMS")
    options_parser.add_argument("--precision", type=float, default=0.8, help="the least AP")
    options = options_parser.parse_args()
    case, report = CASES["yolov5n"], Report(options)
    clip = case.frames(options.frames)
    skip = case.transformed(torch.from_numpy(clip[0][0]), threshold=1, input_threshold=1)
    engine, dense = compile_engine(skip), skip.program.module(check_guards=False)
    candidates = {
        threshold: with_thresholds(engine.program, threshold, case.input_threshold) for threshold in options.thresholds
    }
    found = {threshold: precision(Engine(program).stream(), clip) for threshold, program in candidates.items()}
    ASIDE.print(*(f"threshold {threshold}: AP {value:.4f}" for threshold, value in sorted(found.items())), sep="\n")
    good = [threshold for threshold, value in found.items() if value >= options.precision]
    if not good:
        sys.exit(f"no threshold reaches AP {options.precision}: give smaller --thresholds")
    program = candidates[max(good)]
    facts = {
        "threshold": max(good),
        "input threshold": case.input_threshold,
        "AP": found[max(good)],
        "AP dense": precision(lambda frame: [output.numpy() for output in dense(torch.from_numpy(frame))], clip),
        "MACs active": mean_active(program, clip),
    }
    report.add("detection", facts, skip.program, program, clip)
    report.close()


def precision(network: Callable[..., Any], clip: Clip, start: int = 0) -> float:
    """AP of a network on a clip, whose first frame is the video's of that number."""
    detector, truth = _detector(), true_boxes((clip[0][0].shape[2], clip[0][0].shape[3]))
    with torch.no_grad():
        found = [detector.boxes(network(frame)) for (frame,) in clip]
    return average_precision(found, [truth[start + index] for index in range(len(clip))])


@cache
def _detector() -> Detector:
    return Detector()  # its weights are read once, however many settings are tried


if __name__ == "__main__":
    main()
