"""Exported models: right in stock runtimes, in place and not, after their optimisers, and equal from run to run."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from skipfx.errors import ArtifactError, CompileError, FrameError, OptionError, UsageError
from skipfx.export import export_onnx
from skipfx.model import SkipModel
from skipfx.onnx_manifest import KEY, OnnxManifest
from skipfx.options import DynConv, Gate, Gumbel, Hold, InputNorm
from skipfx.passes.gate_convolutions import is_gate_parameter
from skipfx.passes.portable import cost
from skipfx.runtime import OnnxEngine, load_onnx
from skipfx.testing import stepper
from skipfx.transformation import transform
from tests.networks import Branches, Squeeze, moving_clip, seeded

Array = NDArray[Any]
SIZE = (3, 24, 30)
MOVING, REFRESHED = 10, (0, 5)
HOLD = Hold(threshold=0.1, input_threshold=0.1)
TOLERANCE = 1e-5  # of an output's largest value


def clip() -> list[Array]:
    moving = [frame.numpy() for (frame,) in moving_clip(*SIZE, length=MOVING)]
    return [*moving, moving[-1], moving[-1]]  # in the end nothing moves


@dataclasses.dataclass
class Exported:
    """A transformed model, its export, and what it must give."""

    skip: SkipModel
    path: Path
    manifest: OnnxManifest
    expected: list[list[Array]]


def export(skip: SkipModel, path: Path, **options: Any) -> Exported:
    step = stepper(skip)
    expected = [[leaf.copy() for leaf in step((f,), i in REFRESHED)] for i, f in enumerate(clip())]
    return Exported(skip, path, export_onnx(skip, path, **options), expected)


@pytest.fixture(scope="module", autouse=True)
def always_gather() -> Iterator[None]:
    """The networks here are so small that no layer would pay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "STEP", 0)
        yield


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    skip = transform(seeded(Branches()), moving_clip(*SIZE)[0], gate=Hold(threshold=0.1, input_threshold=0.1))
    return export(skip, tmp_path_factory.mktemp("held") / "model.onnx")


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    skip = transform(seeded(Squeeze()), moving_clip(*SIZE)[0], gate=InputNorm(eps=0.02), block=4)
    return export(skip, tmp_path_factory.mktemp("normed") / "model.onnx", opset=18, external_data=True)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    stem = nn.Sequential(nn.Conv2d(3, 8, 6, stride=2, padding=2), nn.SiLU())
    model = seeded(nn.Sequential(stem, nn.MaxPool2d(5, 1, 2), nn.Conv2d(8, 4, 3, padding=1)))
    skip = transform(model, moving_clip(*SIZE)[0], gate=Hold(threshold=0.1, input_threshold=0.1, dilation=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "SHARE", 0)  # whatever a layer costs
        exported = export(skip, tmp_path_factory.mktemp("folded") / "model.onnx")
    assert 3 * 2**2 in [state.size[0] for state in exported.manifest.states]  # channels of the folded frame
    return exported


@pytest.fixture(params=["held", "normed", "folded"])
def exported(request: pytest.FixtureRequest) -> Exported:
    found: Exported = request.getfixturevalue(request.param)
    return found


def check(engine: OnnxEngine, exported: Exported, tolerance: float = TOLERANCE, **options: Any) -> None:
    stream = engine.stream(**options)
    for index, (frame, expected) in enumerate(zip(clip(), exported.expected, strict=True)):
        if index in REFRESHED:
            stream.refresh()
        for left, right in zip(tree_leaves(stream(frame)), expected, strict=True):
            assert left.shape == right.shape
            assert float(np.abs(left - right).max()) <= tolerance * float(np.abs(right).max()), f"frame {index}"
        assert stream.stats.refreshed == (index in REFRESHED)
        assert 0 < stream.stats.active_fraction <= 1 or index >= MOVING


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_outputs_are_those_of_the_model(exported: Exported, runtime: str, in_place: bool) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    check(load_onnx(exported.path, 1, runtime), exported, in_place=in_place)


def test_standard_operators_only_and_all_states(exported: Exported) -> None:
    model = onnx.load(str(exported.path))
    onnx.checker.check_model(str(exported.path), full_check=True)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert "Squeeze" not in {node.op_type for node in model.graph.node}  # lengths are tensors from the start
    manifest, inputs = exported.manifest, [value.name for value in model.graph.input]
    assert inputs == [manifest.frames[0].name, *(state.input for state in manifest.states), "skipfx_refresh"]
    assert len(manifest.states) >= len(exported.skip.init_state()) - 1
    assert [state.input for state in manifest.states] == sorted(state.input for state in manifest.states)
    assert {entry.key: entry.value for entry in model.metadata_props}[KEY] == manifest.model_dump_json()
    assert json.loads(exported.path.with_suffix(".json").read_text())["state_bytes"] == manifest.state_bytes


def test_held_states_are_safe_in_place(held: Exported) -> None:
    assert held.manifest.safe_in_place
    assert {state.layout for state in held.manifest.states} == {"planar", "planes", "rows"}


def test_right_after_optimisers(held: Exported, tmp_path: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    slim = onnxslim.slim(onnx.load(str(held.path)))
    onnx.save(slim, str(tmp_path / "slim.onnx"))
    check(load_onnx(tmp_path / "slim.onnx", 1), held)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(held.path), options, providers=["CPUExecutionProvider"])
    check(load_onnx(tmp_path / "optimised.onnx", 1), held)


def test_the_same_bytes_again(held: Exported, tmp_path: Path) -> None:
    export_onnx(held.skip, tmp_path / "model.onnx")
    for suffix in (".onnx", ".json", ".config.pbtxt"):
        assert (tmp_path / f"model{suffix}").read_bytes() == held.path.with_suffix(suffix).read_bytes()
    assert str(tmp_path) not in (tmp_path / "model.onnx").read_bytes().decode("latin1")


def test_dense_and_half_weights(held: Exported, tmp_path: Path) -> None:
    dense = export_onnx(held.skip, tmp_path / "dense.onnx", gather=False, fp16=True)
    assert (dense.gathered, dense.layers, dense.active) == (False, (), None)
    kinds = {t.data_type for t in onnx.load(str(tmp_path / "dense.onnx")).graph.initializer if len(t.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in kinds
    stream = load_onnx(tmp_path / "dense.onnx", 1).stream()
    for left, right in zip(tree_leaves(stream(clip()[0])), held.expected[0], strict=True):
        assert float(np.abs(left - right).max()) <= 5e-3 * float(np.abs(right).max())


def test_streams_are_independent_and_go_back_to_a_snapshot(held: Exported) -> None:
    engine, frames = load_onnx(held.path, 1), clip()
    first, other = engine.stream(), engine.stream()
    first(frames[0])
    snapshot = first.state_dict()
    expected = [leaf.copy() for leaf in tree_leaves(first(frames[1]))]
    other(frames[5])
    first.load_state_dict(snapshot)
    for left, right in zip(tree_leaves(first(frames[1])), expected, strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(UsageError, match="does not fit"):
        first.load_state_dict({"since_refresh": np.array(0)})


@pytest.mark.parametrize("in_place", [True, False])
def test_outputs_keep_their_values_while_they_are_held(held: Exported, in_place: bool) -> None:
    stream, kept = load_onnx(held.path, 1).stream(in_place=in_place), []
    for frame in clip():
        leaves = tree_leaves(stream(frame))
        kept += [(leaf[:, :1, 2:], leaf[:, :1, 2:].copy()) for leaf in leaves]  # parts of them, too
    stream.load_state_dict({name: np.zeros_like(array) for name, array in stream.state_dict().items()})
    for part, copy in kept:
        np.testing.assert_array_equal(part, copy)


def test_an_output_that_nobody_holds_stays_where_it_is(held: Exported) -> None:
    shared = [index for index, record in enumerate(held.manifest.outputs) if record.state is not None]
    stream, [frame, *others] = load_onnx(held.path, 1).stream(), clip()
    outputs = tree_leaves(stream(frame))
    places = [outputs[index].ctypes.data for index in shared]
    assert places and not any(outputs[index].flags.writeable for index in shared)
    del outputs
    outputs = tree_leaves(stream(others[0]))
    assert [outputs[index].ctypes.data for index in shared] == places
    held_for_long = tree_leaves(stream(others[1]))
    assert all(outputs[index].ctypes.data != held_for_long[index].ctypes.data for index in shared)


def test_a_refused_frame_changes_nothing(held: Exported) -> None:
    stream, frames = load_onnx(held.path, 1).stream(), clip()
    stream(frames[0])
    before = stream.state_dict()
    bad = frames[1].copy()
    bad[0, 0, 0, 0] = np.nan
    for frame, words in ((bad, "NaN"), (frames[1][:, :2], "shape"), (frames[1].astype(np.float64), "float32")):
        with pytest.raises(FrameError, match=words):
            stream(frame)
    for name, value in stream.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_bad_input(held: Exported, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="18 to 20"):
        export_onnx(held.skip, tmp_path / "x.onnx", opset=17)
    with pytest.raises(ArtifactError, match="exists"):
        export_onnx(held.skip, held.path)
    exact = transform(seeded(Branches()), moving_clip(*SIZE)[0], gate=Hold(threshold=0, input_threshold=0))
    with pytest.raises(CompileError, match="thresholds are 0"):
        export_onnx(exact, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="expected one of onnxruntime, openvino"):
        load_onnx(held.path, runtime="tensorflow")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ArtifactError, match="not a readable ONNX model"):
        load_onnx(tmp_path / "text.onnx")
    onnx.save(onnx.ModelProto(), str(tmp_path / "foreign.onnx"))
    with pytest.raises(ArtifactError, match="did not export"):
        load_onnx(tmp_path / "foreign.onnx")


def test_tensors_in_and_out(held: Exported) -> None:
    outputs = load_onnx(held.path, 1).stream()(torch.from_numpy(clip()[0]))
    assert all(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(outputs))
    assert set(outputs) == {"map", "parts"}


@pytest.mark.parametrize("gate", [Gumbel(block=2), DynConv(target=0.5), DynConv(target=0.5, squeeze=True, hold=HOLD)])
def test_learned_gates_are_those_of_the_model(gate: Gate, tmp_path: Path) -> None:
    skip = transform(seeded(Branches()), (torch.from_numpy(clip()[0]),), gate=gate)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in skip.named_parameters():
            if is_gate_parameter(name):
                value.copy_(torch.rand(value.shape, generator=generator) - (0.8 if "gate_bias" in name else 0.4))
    exported = export(skip, tmp_path / "learned.onnx", opset=19)
    check(load_onnx(exported.path), exported)
    assert exported.manifest.layers
