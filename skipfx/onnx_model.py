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
