"""YOLOv5n on the PETS clip at 640 x 480: accuracy, active share, and time against dense engines.

    python -m benchmarks.detection [--threshold 0.25] [--threads 1 2] [--json]

Needs the clips and networks of `benchmarks.data`. The clip is lossy-compressed: sensor noise that a raw camera would
show is not in it.
"""

import numpy as np
import torch

from benchmarks.data import data_folder, load_clip
from benchmarks.pets import Detector, average_precision, true_boxes
from benchmarks.report import parser, run, share
from skipfx import Engine, Hold, Preprocess, SkipModel
from skipfx.bench.compare import Clip
from skipfx.build import compile_engine
from skipfx.transformation import transform

SIZE = (480, 640)


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=80)
    options_parser.add_argument("--threshold", type=float, default=0.25, help="share of a value's RMS")
    options_parser.add_argument("--input-threshold", type=float, default=12 / 255, help="of a pixel, in [0, 1]")
    options = options_parser.parse_args()
    path = data_folder() / "models" / "yolov5n_480x640.pt2"
    clip = load_clip("pets/pets_s2l1_480x360.mp4", Preprocess(size=SIZE), options.frames)
    example = tuple(torch.from_numpy(frame) for frame in clip[0])
    skip = transform(path, example, gate=Hold(threshold=options.threshold, input_threshold=options.input_threshold))
    engine = compile_engine(skip)
    facts = {"threshold": options.threshold, "input threshold": options.input_threshold, **accuracy(skip, engine, clip)}
    run(engine, skip.program, clip, facts, options)


def accuracy(skip: SkipModel, engine: Engine, clip: Clip) -> dict[str, object]:
    """AP of the dense network and of the stream, and the share of the MACs that the stream computed."""
    detector, truth = Detector(), true_boxes(SIZE)
    dense, stream = skip.program.module(), engine.stream()
    expected, found, active = [], [], []
    for (frame,) in clip:
        with torch.no_grad():
            expected.append(detector.boxes([output.numpy() for output in dense(torch.from_numpy(frame))]))
        found.append(detector.boxes(stream(frame)))
        active.append(stream.stats.active_fraction)
    boxes = [truth[index] for index in range(len(clip))]
    return {
        "AP@0.5 dense": round(average_precision(expected, boxes), 4),
        "AP@0.5 skipfx": round(average_precision(found, boxes), 4),
        "MACs active": share(active[1:]),
        "frames": len(clip),
        "state per stream": f"{engine.state_bytes / 1e6:.1f} MB",
        "mean boxes per frame": round(float(np.mean([len(b) for b in found])), 1),
    }


if __name__ == "__main__":
    main()
