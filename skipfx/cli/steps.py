"""From a file of any kind to an engine: what a command does before its own work. PyTorch is loaded only if needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipfx.cli.asked import Asked, kind_of, pictures_for, refuse_late
from skipfx.errors import ArtifactError, UsageError
from skipfx.media import Picture, Preprocess, open_frames
from skipfx.runtime.artifact import load
from skipfx.runtime.engine import Engine
from skipfx.runtime.onnx_engine import OnnxEngine, load_onnx

if TYPE_CHECKING:
    from skipfx.model import SkipModel


@dataclass(frozen=True)
class Ready:
    """A model that can run on pictures.

    Attributes:
        engine: the compiled model.
        skip: the transformed model behind it, unless the file was compiled already.
        preprocess: how a picture becomes a frame.
    """

    engine: Engine | OnnxEngine
    skip: SkipModel | None
    preprocess: Preprocess


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses an output that cannot be written, before the work rather than after it.

    Raises:
        ArtifactError: it exists and `overwrite` is not set, or its folder cannot be written.
    """
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path}: exists; pass --overwrite to replace it, or choose another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ArtifactError(f"{path}: cannot be written: {path.parent} is no folder that you may write to")


def first_picture(clip: Path | None) -> Picture | None:
    """The first picture of a clip; None without one."""
    if clip is None:
        return None
    with open_frames(clip, limit=1) as source:
        return next(iter(source))


def make_ready(path: Path, example: Picture, asked: Asked, threads: int | None) -> Ready:
    """Does the steps that a file still needs.

    Args:
        path: compiled, transformed or plain.
        example: a picture of the clip; it scales the thresholds of a plain model.
        asked: what the user asked of these steps.
        threads: cores that a frame may use; None: all.

    Raises:
        SkipfxError: as the steps do, or an option comes too late for the file.
    """
    if kind_of(path) in ("engine", "onnx"):
        refuse_late(path, asked.choices.given())
        exported = kind_of(path) == "onnx"
        engine = load_onnx(path, threads, asked.runtime) if exported else load(path, threads)
        return Ready(engine, None, pictures_for(path, engine.preprocess, engine.program.frames, asked.pictures))
    from skipfx.build import compile_engine
    from skipfx.cli.transforming import transformed

    skip, preprocess = transformed(path, example, asked)
    with asked.output.working(f"compiling {path}"):
        return Ready(compile_engine(skip, threads=threads), skip, preprocess)


def refuse_model(path: Path, dense: Path | None) -> None:
    """Refuses --model for a file that holds its model.

    Raises:
        UsageError: it was given.
    """
    if dense is not None:
        raise UsageError(f"--model: {path} holds its own model; the option is for compiled ones")
