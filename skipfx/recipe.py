"""A transformation as data: with the captured program it gives the stream graph again, bit for bit.

A `.skip.pt2` file is the captured program as `torch.export.save` writes it, with the recipe beside it as JSON. Loading
runs the pipeline again and compares the digest of the graph that comes out, so a file never means something else than
what was saved. Where gates learn, the parameters of the graph stand beside them, as training left them.
"""

import base64
import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, fx, nn
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
WEIGHTS_FILE = "skipfx.safetensors.base64"  # what stands beside a program is text


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


def own_parameters(gm: fx.GraphModule) -> None:
    """Gives the graph parameters of its own, and no others: training leaves the captured program as it is."""
    read = {str(node.target) for node in gm.graph.find_nodes(op="get_attr")}
    copies: dict[int, nn.Parameter] = {}
    for prefix, module in gm.named_modules():
        for name, old in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if f"{prefix}.{name}".removeprefix(".") in read:
                new = copies.setdefault(id(old), nn.Parameter(old.detach().clone(), old.requires_grad))
                setattr(module, name, new)
            else:  # a weight that batch-norm was folded into
                delattr(module, name)


def restore(gm: fx.GraphModule, weights: Mapping[str, Tensor], path: Path) -> None:
    """Puts saved parameters into a graph.

    Raises:
        ArtifactError: they are not those of the graph.
    """
    mine = dict(gm.named_parameters())
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in mine.items()}:
        raise ArtifactError(f"{path}: its weights are not those of its graph: transform and train the model again")
    with torch.no_grad():
        for name, tensor in weights.items():
            mine[name].copy_(tensor)


def write(
    path: Path, program: ExportedProgram, saved: Saved, weights: Mapping[str, Tensor], *, overwrite: bool
) -> None:
    """Writes a `.skip.pt2` file, whole or not at all.

    Raises:
        ArtifactError: the file exists and `overwrite` is not set, or the folder cannot be written.
    """
    data = BytesIO()
    extra = {RECIPE_FILE: saved.model_dump_json()}
    if weights:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        extra[WEIGHTS_FILE] = base64.b64encode(save(tensors)).decode()
    torch.export.save(program, data, extra_files=extra)
    write_whole(path, data.getvalue(), overwrite=overwrite)


def read(path: Path) -> tuple[ExportedProgram, Saved, dict[str, Tensor]]:
    """Reads a `.skip.pt2` file: the program, the recipe, and the weights of learned gates and their network.

    It executes code of its author, as every saved program does.

    Raises:
        ArtifactError: the file is missing, damaged, of another version, or a model that was not transformed.
    """
    extra = {RECIPE_FILE: "", WEIGHTS_FILE: ""}
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
    try:
        weights = load(base64.b64decode(extra[WEIGHTS_FILE], validate=True)) if extra[WEIGHTS_FILE] else {}
    except (ValueError, SafetensorError) as error:
        raise ArtifactError(f"{path}: the weights are damaged: {error}") from error
    return program, saved, weights
