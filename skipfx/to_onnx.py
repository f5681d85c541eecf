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
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            for logger in loggers:  # they report operators of packages that are not installed, and empty lists
                logger.setLevel(logging.ERROR)
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
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    data: bytes = exported.model_proto.SerializeToString()
    return data
