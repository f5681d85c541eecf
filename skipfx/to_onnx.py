"""A model as ONNX, by PyTorch's exporter."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import nn
from torch.export import ExportedProgram

OPSET = 20


def _keep(self: Any, indices: Sequence[Any]) -> Any:
    """The rows that a bool [n] names."""
    return op.Compress(self, indices[0], axis=0)


def _select(self: Any, dim: int, index: Any) -> Any:
    """The slices at an index [n]."""
    return op.Gather(self, index, axis=dim)


# operators that the exporter writes as several nodes
PORTABLE = {torch.ops.aten.index.Tensor: _keep, torch.ops.aten.index_select.default: _select}


def to_onnx(
    model: nn.Module | ExportedProgram,
    example: tuple[torch.Tensor, ...] = (),
    opset: int = OPSET,
    names: tuple[list[str], list[str]] | None = None,
    translations: dict[Any, Any] | None = None,
) -> bytes:
    """Exports a model.

    Args:
        model: a module, or a program, which carries its example.
        example: the inputs of a module.
        opset: of the standard operators.
        names: of the inputs and of the outputs; None leaves them to the exporter.
        translations: of ATen operators that the exporter is not to write its own way.

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
                custom_translation_table=translations,
            )
        assert exported is not None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    data: bytes = exported.model_proto.SerializeToString()
    return data
