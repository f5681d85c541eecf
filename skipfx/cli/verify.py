"""`skipfx verify`."""

from pathlib import Path
from typing import Annotated

import torch

from skipfx.cli.asked import Asked, kind_of
from skipfx.cli.command import with_records
from skipfx.cli.options import (
    AnyPath,
    ClipPath,
    DenseModel,
    Pictures,
    RawSize,
    Runtime,
    Threads,
    Transformation,
    option,
)
from skipfx.cli.output import Output
from skipfx.cli.steps import make_ready, refuse_model
from skipfx.cli.transforming import dense_program, transformed
from skipfx.errors import VerificationError
from skipfx.media import Picture, open_frames
from skipfx.testing import run_dense
from skipfx.verification import Verification, verify


@with_records
def command(
    model: AnyPath,
    clip: ClipPath,
    choices: Transformation,
    pictures: Pictures,
    output: Output,
    dense: DenseModel = None,
    frames: Annotated[int, option("--frames", "Check on so many frames.", "32", min=1)] = 32,
    raw_size: RawSize = None,
    threads: Threads = None,
    runtime: Runtime = "onnxruntime",
) -> None:
    """Checks on a clip that a model keeps its promises; exit code 3 if it does not.

    A refresh gives what the original model gives, a frame that repeats the one before changes nothing, a refresh
    forgets the past, and held values stay near what they stand for. A transformed or plain model is checked in
    PyTorch; a compiled one is compared with --model, or else with its own refreshed frames.
    """
    with open_frames(clip, raw_size=raw_size, limit=frames) as source:
        found = list(source)
    asked = Asked(choices, pictures, output, runtime)
    if kind_of(model) in ("engine", "onnx"):
        result = _verify_engine(model, dense, found, asked, threads)
    else:
        refuse_model(model, dense)
        skip, preprocess = transformed(model, found[0], asked)
        with output.working(f"verifying {model}"):
            result = verify(skip, [preprocess(picture) for picture in found])
    output.show(result.summary(), result.model_dump() | {"ok": result.ok})
    if not result.ok:
        raise VerificationError(f"{model} does not keep its promises on this clip")


def _verify_engine(
    path: Path, dense: Path | None, pictures: list[Picture], asked: Asked, threads: int | None
) -> Verification:
    ready = make_ready(path, pictures[0], asked, threads)
    frames = [ready.preprocess(picture) for picture in pictures]
    expected = None
    if dense is None:
        asked.output.note("without --model, refreshed frames of the engine itself stand for the dense model")
    else:
        program = dense_program(dense, frames[0], trust_pickle=asked.choices.trust_pickle)
        with asked.output.working(f"running {dense}"):
            expected = run_dense(program, [(torch.from_numpy(frame),) for frame in frames])
    with asked.output.working(f"verifying {path}"):
        return verify(ready.engine, frames, expected)
