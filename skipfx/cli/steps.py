"""From a file of any kind to an engine: what a command does before its own work. PyTorch is loaded only if needed."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipfx.cli.options import Pictures, Transformation
from skipfx.cli.output import Output
from skipfx.errors import ArtifactError, UsageError
from skipfx.media import Picture, Preprocess, open_frames
from skipfx.runtime.artifact import MANIFEST, load
from skipfx.runtime.engine import Engine
from skipfx.runtime.onnx_engine import OnnxEngine, load_onnx

if TYPE_CHECKING:
    from skipfx.model import SkipModel

Kind = Literal["engine", "onnx", "skip", "model"]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Asked:
    """What a user may ask of the earlier steps.

    Attributes:
        choices, pictures: for plain models; other files were made with options of their own.
        output: where to say what is being done.
        runtime: for exported models.
    """

    choices: Transformation
    pictures: Pictures
    output: Output
    runtime: str = "onnxruntime"


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


def kind_of(path: Path) -> Kind:
    """What a file holds, by its content; by its name where it cannot be looked into."""
    if path.suffix == ".onnx":
        return "onnx"
    if not zipfile.is_zipfile(path):
        return "engine" if path.suffix == ".skipfx" else "skip" if path.name.endswith(".skip.pt2") else "model"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if MANIFEST in names:
        return "engine"
    from skipfx.recipe import RECIPE_FILE

    return "skip" if any(name.endswith(f"/{RECIPE_FILE}") for name in names) else "model"


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


def pictures_for(path: Path, stored: Preprocess | None, shapes: Shapes | None, pictures: Pictures) -> Preprocess:
    """How pictures become frames: as stored in a file, else as asked for.

    Raises:
        UsageError: both, or the model does not take one picture.
    """
    if stored is not None:
        refuse_late(path, pictures.given())
        return stored
    made = pictures.preprocess(shapes)
    if made is None:
        raise UsageError(f"{path}: the input of this model is not one picture of 1 or 3 channels: use it from Python")
    return made


def refuse_late(path: Path, given: dict[str, Any]) -> None:
    """Refuses options that a file was made without.

    Raises:
        UsageError: there are some.
    """
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names}: {path} was made with options of its own; give yours to skipfx transform")


def refuse_model(path: Path, dense: Path | None) -> None:
    """Refuses --model for a file that holds its model.

    Raises:
        UsageError: it was given.
    """
    if dense is not None:
        raise UsageError(f"--model: {path} holds its own model; the option is for compiled ones")
