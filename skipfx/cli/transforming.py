"""The steps before an engine that need PyTorch: load a model, transform it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from skipfx import graph as g
from skipfx.capture import capture, example_frames
from skipfx.cli.asked import Asked, Shapes, kind_of, pictures_for, refuse_late
from skipfx.cli.options import Pictures, Transformation
from skipfx.errors import FrameError
from skipfx.loading import load_model
from skipfx.media import Picture, Preprocess
from skipfx.model import SkipModel
from skipfx.transformation import transform


def transformed(path: Path, example: Picture, asked: Asked) -> tuple[SkipModel, Preprocess]:
    """The transformed model of a file that holds one, or a plain model; and how pictures become its frames.

    Raises:
        SkipfxError: as loading and transforming do, or an option comes too late for the file.
    """
    late = asked.pictures
    if kind_of(path) == "model":
        with asked.output.working(f"transforming {path}"):
            skip = transform_file(path, example, asked.choices, asked.pictures)
        late = Pictures()
    else:
        refuse_late(path, asked.choices.given())
        with asked.output.working(f"loading {path}"):
            skip = SkipModel.load(path)
    return skip, pictures_for(path, skip.preprocess, frame_shapes(skip), late)


def transform_file(path: Path, example: Picture | None, choices: Transformation, pictures: Pictures) -> SkipModel:
    """Loads a model and transforms it; where its input is a picture, the result has a `preprocess`.

    Args:
        path: of the model.
        example: a picture that scales the thresholds; None takes the input saved with the model.
        choices: how to transform.
        pictures: how pictures become the model's input.

    Raises:
        SkipfxError: as `skipfx.transform` does, or the example does not fit the model.
    """
    options = choices.arguments()
    model, inputs, preprocess = load_with_example(path, example, pictures, trust_pickle=choices.trust_pickle)
    try:
        skip = transform(model, inputs, **options)
    except FrameError as error:
        hint = "" if example is not None else " (on the command line: --example CLIP)"
        raise FrameError(f"{error}{hint}") from error
    shapes = frame_shapes(skip)
    if preprocess is None:
        skip.preprocess = pictures.preprocess(shapes)
    else:
        skip.preprocess = preprocess.model_copy(update={"size": shapes[0][2:]})
    return skip


def load_with_example(
    path: Path, example: Picture | None, pictures: Pictures, *, trust_pickle: bool
) -> tuple[nn.Module | ExportedProgram, tuple[Tensor, ...] | None, Preprocess | None]:
    """A plain model, the example as its input, and how pictures become its frames (None: they do not).

    Raises:
        SkipfxError: the file cannot be loaded, or the example does not fit the model.
    """
    model = load_model(path, trust_pickle=trust_pickle)
    shapes = _input_shapes(model)
    if example is None and not pictures.given():
        return model, None, pictures.preprocess(shapes)
    preprocess = pictures_for(path, None, shapes, pictures)
    return model, None if example is None else (torch.from_numpy(preprocess(example)),), preprocess


def _input_shapes(model: nn.Module | ExportedProgram) -> Shapes | None:
    """The shapes of a saved program's inputs, where sizes may be open; None for a module, which has none."""
    if not isinstance(model, ExportedProgram):
        return None
    inputs = {node.name: node.meta.get("val") for node in model.graph.find_nodes(op="placeholder")}
    found = (inputs[name] for name in model.graph_signature.user_inputs)
    return tuple(tuple(value.shape) for value in found if isinstance(value, torch.Tensor))


def frame_shapes(skip: SkipModel) -> Shapes:
    """The shapes of a transformed model's frames."""
    return tuple(tuple(g.value(node).shape) for node in g.frames(skip.graph_module.graph))


def dense_program(path: Path, frame: NDArray[np.float32], *, trust_pickle: bool) -> ExportedProgram:
    """The captured model of a plain or transformed file, for frames like `frame`.

    Raises:
        SkipfxError: the file cannot be loaded or captured, or its model takes other frames.
    """
    frames = (torch.from_numpy(frame),)
    program = capture(path, frames, trust_pickle=trust_pickle)
    example_frames(program, frames)
    return program
