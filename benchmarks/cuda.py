"""Engines for GPUs: what their kernels need, and where there is a GPU, its tests and times beside PyTorch.

    python -m benchmarks.cuda [--networks yolov5n hrnet] [--frames 30] [--precision fp16] [--json cuda.json]

The kernels of the six networks are compiled for sm_80 and sm_90 (needs nvcc, no GPU). The rest needs a GPU, its driver
and a PyTorch that was built for it; what could not be measured stands in the document as "not measured", with the
reason. Times are medians per frame in turns in one run, at the same precision, against PyTorch in channels-last memory
replayed as a CUDA graph; those of YOLOv5n also with many streams in one sequence of launches. This half of the script
has never run: no GPU was at hand when it was written.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import CASES
from benchmarks.report import ASIDE
from skipfx import SkipModel
from skipfx.bench.timing import machine
from skipfx.build import compile_engine
from skipfx.errors import DeviceError, SkipfxError
from skipfx.passes.lower import lower
from skipfx.runtime import Engine
from skipfx.runtime.assemble import assemble
from skipfx.runtime.backends.cuda import assemble_source, kernels_of, sources, tiles_cuda
from skipfx.runtime.gpu.driver import open_driver
from skipfx.runtime.kernels.table import PRECISIONS, Precision

ARCHITECTURES = ("sm_80", "sm_90")
THRESHOLD = 0.1
STREAMS = {"yolov5n": (1, 8, 32)}  # how many are measured together
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    """Compiles, measures what can be measured, and writes the document."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES), help="which of them")
    parser.add_argument("--frames", type=int, default=30, help="frames of a clip")
    parser.add_argument("--json", type=Path, default=None, help="file for the document; none: standard output")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of both sides")
    options = parser.parse_args()
    missing = _missing()
    document: dict[str, Any] = {
        "machine": machine(),
        "tests on the GPU": missing or _tests(),
        "precision": options.precision,
    }
    document["networks"] = {}
    for name in options.networks:
        ASIDE.print(f"{name}: transforming and compiling")
        frames = [torch.from_numpy(frame) for (frame,) in CASES[name].frames(options.frames)]
        skip = CASES[name].transformed(frames[0], THRESHOLD, CASES[name].input_threshold)
        found = document["networks"][name] = {"kernels": _needs(skip, options.precision)}
        found["times"] = missing or _times(skip, frames, options.precision, STREAMS.get(name, ()))
    text = json.dumps(document, indent=1)
    if options.json is None:
        print(text)
    else:
        options.json.write_text(text + "\n")


def _missing() -> str | None:
    """Why nothing can be measured, if so."""
    try:
        open_driver()
    except DeviceError as error:
        return f"not measured: {error}"
    return None if torch.cuda.is_available() else "not measured: this PyTorch was not built for the GPU"


def _tests() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "tests/runtime/cuda"], check=False)
    return {"passed": done.returncode == 0}


def _needs(skip: SkipModel, precision: Precision) -> Any:
    """Per kernel and architecture: registers, bytes of shared memory, bytes spilled; or why there are none."""
    try:
        image = assemble(lower(skip.graph_module), tiles=tiles_cuda("cuda", precision))
        _, needs = assemble_source(sources(kernels_of(image), ARCHITECTURES), ARCHITECTURES)
    except SkipfxError as error:
        return f"not compiled: {error}"
    return {
        f"{need.kernel} {need.architecture}": [need.registers, need.shared, need.spilled]
        for need in sorted(needs, key=lambda need: (need.kernel, need.architecture))
    }


def _times(skip: SkipModel, frames: list[Tensor], precision: Precision, streams: tuple[int, ...]) -> Any:
    """Milliseconds per frame of the stream, of PyTorch and of so many streams; the share of the MACs in the first."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        engine = compile_engine(skip, target="cuda", precision=precision)
        stream = engine.stream()
    except SkipfxError as error:
        return f"not measured: {error}"
    clip = [frame.cuda() for frame in frames]
    dense = _replayed(skip.program.module(), clip[0], AUTOCAST.get(precision))
    mine, theirs, active = [], [], []
    for frame in clip:
        mine.append(_timed(lambda frame=frame: stream(frame)))
        theirs.append(_timed(lambda frame=frame: dense(frame)))
        active.append(stream.stats.active_fraction)
    found = {"skipfx ms": median(mine[1:]), "pytorch ms": median(theirs[1:]), "active": median(active[1:])}
    return found | {f"{count} streams ms": _together(engine, frames, count) for count in streams}


def _together(engine: Engine, frames: list[Tensor], count: int) -> float:
    """Milliseconds per step of streams in the same launches, each a frame ahead of the one before it."""
    lanes, times = engine.lanes(count), []
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]  # there and back: no frame jumps
    for time in range(len(frames)):
        batch = torch.cat([frames[order[(time + lane) % len(order)]] for lane in range(count)]).cuda()
        times.append(_timed(lambda batch=batch: lanes(batch)))
    return median(times[1:])


def _replayed(model: nn.Module, frame: Tensor, rounded: torch.dtype | None) -> Any:
    """The dense model in channels-last memory, as a CUDA graph; convolutions in `rounded`, where that is given."""
    model = model.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    taken = frame.to(memory_format=torch.channels_last)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.autocast("cuda", rounded, enabled=rounded is not None):
        for _ in range(3):
            model(taken)
        with torch.cuda.graph(graph):
            model(taken)

    def run(frame: Tensor) -> None:
        taken.copy_(frame)
        graph.replay()

    return run


def _timed(run: Any) -> float:
    torch.cuda.synchronize()
    start = perf_counter()
    run()
    torch.cuda.synchronize()
    return 1e3 * (perf_counter() - start)


if __name__ == "__main__":
    main()
