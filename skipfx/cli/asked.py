"""What a command is asked: the kind of file it was given, and the options that still apply to it."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skipfx.cli.options import Pictures, Transformation
from skipfx.cli.output import Output
from skipfx.errors import UsageError
from skipfx.media import Preprocess
from skipfx.runtime.artifact import MANIFEST

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
