"""A model as ONNX, by PyTorch's exporter."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops import core
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from torch import nn
from torch.export import ExportedProgram

OPSET = 20
aten = torch.ops.aten
op: Any = opset18  # its types say nothing of numbers and lists, which it takes


def _index(self: Any, indices: Sequence[Any]) -> Any:
    """The rows that a bool [n] names."""
    if len(indices) == 1 and indices[0].dtype == ir.DataType.BOOL and len(indices[0].shape) == 1:
        return op.Compress(self, indices[0], axis=0)
    return core.aten_index(self, indices)


def _index_select(self: Any, dim: int, index: Any) -> Any:
    """The slices at an index [n]."""
    if len(index.shape) == 1 and len(self.shape) > 0:
        return op.Gather(self, index, axis=dim)
    return core.aten_index_select(self, dim, index)


def _index_copy(self: Any, dim: int, index: Any, source: Any) -> Any:
    """The tensor with the slices at an index [n] replaced."""
    if dim == 0 and len(index.shape) == 1:
        return op.ScatterND(self, op.Unsqueeze(index, [1]), source)
    turned = [1] * len(self.shape)
    turned[dim] = -1
    spread = op.Expand(op.Reshape(index, turned), op.Shape(source))
    return op.ScatterElements(self, spread, source, axis=dim)


# operators of the portable lowering that the exporter writes as several nodes, or not at all
PORTABLE: dict[Any, Any] = {
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.index_copy.default: _index_copy,
}


def to_onnx(
    model: nn.Module | ExportedProgram,
    example: tuple[torch.Tensor, ...] = (),
    opset: int = OPSET,
    names: tuple[list[str], list[str]] | None = None,
    portable: bool = False,
) -> bytes:
    """Exports a model.

    Args:
        model: a module, or a program, which carries its example.
        example: the inputs of a module.
        opset: of the standard operators.
        names: of the inputs and of the outputs; None leaves them to the exporter.
        portable: the model was lowered by `skipfx.passes.portable`: its operators become single nodes, and little is
            left for the exporter's search for better ones, which takes long.

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
                custom_translation_table=PORTABLE if portable else None,
                optimize=not portable,
            )
        assert exported is not None
        if portable:
            _tidy(exported.model)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    data: bytes = exported.model_proto.SerializeToString()
    return data


def _tidy(model: Any) -> None:
    """Folds constants, shapes of reshapes among them, and keeps each value and constant once."""
    common.InlinePass()(model)
    fold_constants(model)
    rewrite(model, [materialize_reshape_shape_rule])
    passes = (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
    ir.passes.Sequential(*passes)(model)
