"""A model as ONNX, by PyTorch's exporter."""

import logging
import warnings

import torch
from torch import nn
from torch.export import ExportedProgram

OPSET = 20


def to_onnx(
    model: nn.Module | ExportedProgram,
    example: tuple[torch.Tensor, ...] = (),
    opset: int = OPSET,
    names: tuple[list[str], list[str]] | None = None,
) -> bytes:
    """Exports a model.

    Args:
        model: a module, or a program, which carries its example.
        example: the inputs of a module.
        opset: of the standard operators.
        names: of the inputs and of the outputs; None leaves them to the exporter.

    Raises:
        Exception: whatever the exporter raises on what it cannot take.
    """
    given, made = names or (None, None)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.ERROR)  # it reports operators of packages that are not installed
            exported = torch.onnx.export(
                model,
                example,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=given,
                output_names=made,
            )
        assert exported is not None
    finally:
        logger.setLevel(level)
    data: bytes = exported.model_proto.SerializeToString()
    return data
