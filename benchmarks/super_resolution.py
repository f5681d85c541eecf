"""VDSR on luma at 768 x 432: PSNR against the dense network, active share, and time against dense engines.

    python -m benchmarks.super_resolution [--threshold 0.05] [--threads 1 2] [--json]

Needs the clips and networks of `benchmarks.data`; frames 300 onwards of `one_by_one.mp4`.
"""

import numpy as np
import torch

from benchmarks.data import data_folder, load_clip
from benchmarks.report import parser, run, share
from skipfx import Engine, Hold, Preprocess, SkipModel
from skipfx.bench.compare import Clip
from skipfx.build import compile_engine
from skipfx.transformation import transform

SIZE, START = (432, 768), 300


def main() -> None:
    """Measures and prints."""
    options_parser = parser(__doc__ or "", frames=30)
    options_parser.add_argument("--threshold", type=float, default=0.05, help="share of a value's RMS")
    options_parser.add_argument("--input-threshold", type=float, default=4 / 255, help="of a pixel, in [0, 1]")
    options = options_parser.parse_args()
    clip = load_clip("clips/one_by_one.mp4", Preprocess(size=SIZE, channels="luma"), options.frames, START)
    skip = transform(
        data_folder() / "models" / "vdsr_432x768.pt2",
        tuple(torch.from_numpy(frame) for frame in clip[0]),
        gate=Hold(threshold=options.threshold, input_threshold=options.input_threshold),
    )
    engine = compile_engine(skip)
    facts = {"threshold": options.threshold, "input threshold": options.input_threshold, **accuracy(skip, engine, clip)}
    run(engine, skip.program, clip, facts, options)


def accuracy(skip: SkipModel, engine: Engine, clip: Clip) -> dict[str, object]:
    """PSNR of the stream's picture against the dense network's, and the share of the MACs that it computed."""
    dense, stream = skip.program.module(), engine.stream()
    errors, active = [], []
    for (frame,) in clip:
        with torch.no_grad():
            expected = dense(torch.from_numpy(frame)).numpy()
        errors.append(float(np.mean((stream(frame) - expected) ** 2)))
        active.append(stream.stats.active_fraction)
    return {
        "PSNR against dense": f"{10 * np.log10(1 / np.mean(errors[1:])):.1f} dB",
        "MACs active": share(active[1:]),
        "frames": len(clip),
        "state per stream": f"{engine.state_bytes / 1e6:.1f} MB",
    }


if __name__ == "__main__":
    main()
