"""Edits of an exported ONNX model."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WEIGHTED = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1)}


def clean(model: Any, metadata: Mapping[str, str]) -> None:
    """Takes out what depends on the machine or only repeats the graph, and puts in who made the model.

    Args:
        model: edited in place.
        metadata: key -> text that the model carries.
    """
    model.producer_name, model.producer_version = "skipfx", version("skipfx")
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:], model.functions[:]
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in (*model.graph.node, *values):
        part.doc_string = ""
        del part.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def join_lengths(model: Any) -> None:
    """Takes a length as Shape gives it, [1], where the exporter makes a number of it and of that a tensor again."""
    made = {name: node for node in model.graph.node for name in node.output}
    given, same = {value.name for value in model.graph.output}, {}
    for node in model.graph.node:
        number = made.get(node.input[0]) if node.op_type == "Unsqueeze" else None
        length = made.get(number.input[0]) if number is not None and number.op_type == "Squeeze" else None
        if length is not None and _is_single_length(length) and node.output[0] not in given:
            same[node.output[0]] = length.output[0]
    nodes = [node for node in model.graph.node if node.output[0] not in same]
    for node in nodes:
        node.input[:] = [same.get(name, name) for name in node.input]
    read = {name for node in nodes for name in node.input} | given
    for found, kept in (
        (model.graph.node, [node for node in nodes if read.intersection(node.output)]),
        (model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in read]),
    ):
        del found[:]
        found.extend(kept)


def _is_single_length(node: Any) -> bool:
    limits: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    return bool(node.op_type == "Shape") and limits.get("end") == limits.get("start", 0) + 1


def halve_weights(model: Any) -> None:
    """Stores the weights of convolutions and matrix products as float16; a Cast gives them back as float32."""
    weights = {
        node.input[i] for node in model.graph.node for i in WEIGHTED.get(node.op_type, ()) if i < len(node.input)
    }
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name not in weights or tensor.data_type != TensorProto.FLOAT:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_16"))
        casts.append(helper.make_node("Cast", [f"{name}_16"], [name], f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
