"""A transformation as data: with the captured program it gives the stream graph again, bit for bit.

A `.skip.pt2` file is the captured program as `torch.export.save` writes it, with the recipe beside it as JSON. Loading
runs the pipeline again and compares the digest of the graph that comes out, so a file never means something else than
what was saved.
"""

import hashlib
from io import BytesIO
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import fx
from torch.export import ExportedProgram

from skipfx import graph as g
from skipfx.capture import stream_graph
from skipfx.errors import ArtifactError
from skipfx.files import write_whole
from skipfx.loading import load_model
from skipfx.media import Preprocess
from skipfx.options import TransformOptions, describe
from skipfx.passes import pipeline
from skipfx.passes.base import Observer, run_passes

FORMAT = 1
RECIPE_FILE = "skipfx.json"


class Recipe(BaseModel):
    """All that a transformation adds to the captured program.

    Attributes:
        options: what the user asked for.
        input_threshold: tau of the frames, in the units of the model's input.
        scales: node of the classified graph -> RMS of its value on the example frame.
        notes: what capturing changed in the model, in words for the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: TransformOptions
    input_threshold: float
    scales: dict[str, float]
    notes: tuple[str, ...] = ()


class Saved(BaseModel):
    """What stands beside the program in a `.skip.pt2` file.

    Attributes:
        format: version of this layout.
        torch: the PyTorch that saved it, for messages.
        digest: of the stream graph's text.
        recipe: how the stream graph came about.
        preprocess: how pictures become frames, where the model carries it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    torch: str
    digest: str
    recipe: Recipe
    preprocess: Preprocess | None = None


def classify(
    program: ExportedProgram, exclude: tuple[str, ...] = (), observe: Observer | None = None
) -> fx.GraphModule:
    """A captured program as a classified graph.

    Raises:
        CaptureError: the model keeps state of its own, or returns what is no tensor.
        NothingToTransform: no convolution of it is local.
    """
    return run_passes(stream_graph(program), [*pipeline.canonical(), *pipeline.partition(exclude)], observe)


def finish(gm: fx.GraphModule, recipe: Recipe, observe: Observer | None = None) -> fx.GraphModule:
    """A classified graph as a stream graph; it is edited in place."""
    for node in gm.graph.nodes:
        g.record(node).scale = recipe.scales.get(node.name, 0.0)
    return run_passes(gm, pipeline.streaming(recipe.options, recipe.input_threshold), observe)


def digest(gm: fx.GraphModule) -> str:
    """SHA-256 of the graph's text, in hexadecimal."""
    return hashlib.sha256(g.text(gm).encode()).hexdigest()


def write(path: Path, program: ExportedProgram, saved: Saved, *, overwrite: bool) -> None:
    """Writes a `.skip.pt2` file, whole or not at all.

    Raises:
        ArtifactError: the file exists and `overwrite` is not set, or the folder cannot be written.
    """
    data = BytesIO()
    torch.export.save(program, data, extra_files={RECIPE_FILE: saved.model_dump_json()})
    write_whole(path, data.getvalue(), overwrite=overwrite)


def read(path: Path) -> tuple[ExportedProgram, Saved]:
    """Reads a `.skip.pt2` file. It executes code of its author, as every saved program does.

    Raises:
        ArtifactError: the file is missing, damaged, of another version, or a model that was not transformed.
    """
    extra = {RECIPE_FILE: ""}
    program = load_model(path, extra_files=extra)
    if not isinstance(program, ExportedProgram) or not extra[RECIPE_FILE]:
        raise ArtifactError(f"{path}: holds a model, not a transformed one: transform it first (skipfx transform)")
    text = extra[RECIPE_FILE]
    try:
        saved = Saved.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{path}: the recipe is damaged, or of another version: {describe(error)}") from error
    if saved.format != FORMAT:
        raise ArtifactError(f"{path}: format {saved.format}, expected {FORMAT}: transform the model again")
    return program, saved
