"""The rule for binding a state in place, on graphs made by hand and against what ONNX Runtime does."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from skipfx.in_place import safe_states, same_bytes

PAIR = ("s", "t")
SCATTER = helper.make_node("ScatterND", ["s", "i", "u"], ["t"])


def model(*nodes: NodeProto) -> ModelProto:
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 2]) for name in ("s", "n")]
    updates = helper.make_tensor_value_info("u", TensorProto.FLOAT, [2, 2])
    index = helper.make_tensor_value_info("i", TensorProto.INT64, [2, 1])
    mask = helper.make_tensor_value_info("m", TensorProto.BOOL, [4, 1])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("t", "z")]
    graph = helper.make_graph(list(nodes), "g", [*floats, updates, index, mask], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


CASES: dict[str, tuple[bool, Sequence[NodeProto]]] = {
    "scatter, then read the new": (True, [SCATTER, helper.make_node("Neg", ["t"], ["z"])]),
    "read the old beside the write": (False, [SCATTER, helper.make_node("Sub", ["t", "s"], ["z"])]),
    "read the old through a view": (
        False,
        [
            SCATTER,
            helper.make_node("Identity", ["s"], ["v"]),
            helper.make_node("Sub", ["t", "v"], ["z"]),
        ],
    ),
    "the write needs what was read": (
        True,
        [
            helper.make_node("GatherND", ["s", "i"], ["old"]),
            helper.make_node("Max", ["old", "u"], ["new"]),
            helper.make_node("ScatterND", ["s", "i", "new"], ["t"]),
            helper.make_node("Neg", ["t"], ["z"]),
        ],
    ),
    "what was read is used again": (
        False,
        [
            helper.make_node("GatherND", ["s", "i"], ["old"]),
            helper.make_node("Max", ["old", "u"], ["new"]),
            helper.make_node("ScatterND", ["s", "i", "new"], ["t"]),
            helper.make_node("Neg", ["old"], ["z"]),
        ],
    ),
    "position by position": (
        True,
        [helper.make_node("Where", ["m", "n", "s"], ["t"]), helper.make_node("Neg", ["t"], ["z"])],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule(case: str) -> None:
    safe, nodes = CASES[case]
    assert safe_states(model(*nodes), [PAIR]) == {PAIR: safe}


@pytest.mark.parametrize("case", [name for name, (safe, _) in CASES.items() if safe])
def test_what_is_safe_is_right_in_onnxruntime(case: str) -> None:
    session = onnxruntime.InferenceSession(
        model(*CASES[case][1]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    feeds = {
        "s": rng.random((4, 2), np.float32),
        "n": rng.random((4, 2), np.float32),
        "u": rng.random((2, 2), np.float32),
        "i": np.array([[0], [2]]),
        "m": np.array([[True], [False], [True], [False]]),
    }
    wanted = {value.name for value in session.get_inputs()}
    feeds = {name: array for name, array in feeds.items() if name in wanted}
    expected = session.run(["t", "z"], feeds)
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    shared = onnxruntime.OrtValue.ortvalue_from_numpy(feeds["s"])
    binding.bind_ortvalue_input("s", shared)
    binding.bind_ortvalue_output("t", shared)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(shared.numpy(), expected[0])
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[1], expected[1])


def test_a_state_without_a_writer_is_not_safe() -> None:
    assert safe_states(model(helper.make_node("Neg", ["s"], ["z"])), [PAIR]) == {PAIR: False}


def test_an_output_that_is_a_view_of_a_state() -> None:
    view = [helper.make_node("Identity", ["t"], ["v"]), helper.make_node("Squeeze", ["v"], ["z"])]
    assert same_bytes(model(SCATTER, *view), "z", ["other", "t"]) == 1
    assert same_bytes(model(SCATTER, helper.make_node("Neg", ["t"], ["z"])), "z", ["t"]) is None
    assert same_bytes(model(SCATTER), "u", ["t"]) is None
