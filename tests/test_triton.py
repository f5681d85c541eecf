"""The Triton configuration, read by Triton's own definitions, and the order in which it pairs states."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from skipfx.onnx_manifest import OnnxManifest, OutputRecord, StateRecord, TensorRecord, leaf_names, state_names
from skipfx.triton import triton_config


def definitions() -> Any:
    """`model_config_pb2` of tritonclient, without the rest of the package, which needs a network library."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("tritonclient is not installed")
    path = Path(next(iter(package.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(states: int) -> OnnxManifest:
    return OnnxManifest(
        versions={},
        source="",
        opset=20,
        gathered=True,
        frames=(TensorRecord(name="x", shape=(1, 3, 8, 8), dtype="float32"),),
        outputs=(OutputRecord(name="output", shape=(), dtype="float32"),),
        active=None,
        states=tuple(
            StateRecord(
                input=before,
                output=after,
                layer="",
                layout="rows",
                border=0,
                size=(4, 8, 8),
                shape=(64, 4),
                dtype="float32",
                in_place=index % 2 == 0,
            )
            for index, (before, after) in enumerate(state_names(states))
        ),
        state_bytes=0,
        safe_in_place=False,
        layers=(),
        thresholds={},
        options={},
        structure="leaf",
        preprocess=None,
        report={},
    )


def test_config_is_what_triton_defines() -> None:
    from google.protobuf import text_format

    pb = definitions()
    config = text_format.Parse(triton_config(manifest(3), "pose.onnx"), pb.ModelConfig())
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("onnxruntime", "pose.onnx", 0)
    assert [(i.name, list(i.dims), i.data_type) for i in config.input] == [("x", [1, 3, 8, 8], pb.TYPE_FP32)]
    assert [(o.name, list(o.dims)) for o in config.output] == [("output", [1])]
    batching = config.sequence_batching
    (start,) = batching.control_input
    assert start.name == "skipfx_refresh"
    assert start.control[0].kind == pb.ModelSequenceBatching.Control.CONTROL_SEQUENCE_START
    assert list(start.control[0].bool_false_true) == [False, True]
    assert [state.use_same_buffer_for_input_output for state in batching.state] == [True, False, True]
    assert all(state.initial_state[0].zero_data for state in batching.state)
    assert all(list(state.dims) == [64, 4] for state in batching.state)


@pytest.mark.parametrize("count", [1, 10, 150, 1001])
def test_states_pair_in_sorted_order(count: int) -> None:
    pairs = state_names(count)
    assert list(zip(sorted(a for a, _ in pairs), sorted(b for _, b in pairs), strict=True)) == pairs


def test_names_of_outputs() -> None:
    assert leaf_names("leaf") == ["output"]
    nested = ["dict", {"map": "leaf", "parts": ["list", ["leaf", ["constant", 3], "leaf"]]}]
    assert leaf_names(nested) == ["output_map", "output_parts_0", "output_parts_2"]
