"""From a SkipModel to an ONNX model that skips in any runtime, and the files beside it.

`pose.onnx`: the model, with standard operators only and explicit state. `pose.json`: its manifest
(`skipfx.onnx_manifest`), which also stands in the model's metadata. `pose.config.pbtxt`: for a Triton server.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import onnx
import torch

from skipfx import graph as g
from skipfx import ops
from skipfx.build import structure
from skipfx.errors import CompileError, InternalError, OptionError
from skipfx.files import refuse_existing, write_whole
from skipfx.in_place import safe_states, same_bytes
from skipfx.onnx_manifest import (
    ACTIVE,
    KEY,
    REFRESH,
    LayerRecord,
    OnnxManifest,
    OutputRecord,
    StateRecord,
    TensorRecord,
    leaf_names,
    state_names,
)
from skipfx.onnx_model import clean, halve_weights, join_lengths
from skipfx.passes.portable import Portable, lower_portable
from skipfx.to_onnx import OPSET, to_onnx
from skipfx.triton import triton_config

if TYPE_CHECKING:
    from skipfx.model import SkipModel

OPSETS = range(18, 21)
EXTERNAL_ABOVE = 1024  # bytes of a tensor that goes to the file of weights


def export_onnx(
    skip: "SkipModel",
    path: str | Path,
    *,
    opset: int = OPSET,
    gather: bool = True,
    external_data: bool = False,
    fp16: bool = False,
    overwrite: bool = False,
) -> OnnxManifest:
    """Writes a stateful ONNX model that computes only what changed, with standard operators.

    Args:
        skip: from `skipfx.transform`.
        path: file to write; its manifest and a Triton configuration are written beside it.
        opset: of the standard operators, 18 to 20.
        gather: compute only what changed; False: the same gates and states, but everything is computed whole, for
            checks.
        external_data: keep the weights in a file of their own, `path` with the suffix .data.
        fp16: store the weights in 16 bits; arithmetic stays in 32.
        overwrite: replace what exists.

    Returns:
        The manifest.

    Raises:
        OptionError: the opset is not supported.
        ArtifactError: a file exists and `overwrite` is not set, or the folder cannot be written.
        CompileError: nothing of the model can be skipped, or an operator has no ONNX form.
    """
    path = Path(path)
    if opset not in OPSETS:
        raise OptionError(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, which all runtimes read; got {opset}")
    files = [path, path.with_suffix(".json"), path.with_suffix(".config.pbtxt"), path.with_suffix(".data")]
    for file in files[: 4 if external_data else 3]:
        refuse_existing(file, overwrite=overwrite)
    portable = lower_portable(skip.graph_module, gather=gather)
    model = _model(skip, portable, opset)
    manifest = _manifest(skip, portable, model, opset, gather)
    if fp16:
        halve_weights(model)
    clean(model, {KEY: manifest.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    if external_data:
        write_whole(files[3], _detach(model, files[3].name), overwrite=overwrite)
    write_whole(files[1], manifest.model_dump_json(indent=1).encode(), overwrite=overwrite)
    write_whole(files[2], triton_config(manifest, path.name).encode(), overwrite=overwrite)
    write_whole(path, model.SerializeToString(deterministic=True), overwrite=overwrite)
    return manifest


def _names(skip: "SkipModel", portable: Portable) -> tuple[list[str], list[str], list[str]]:
    """Names of the frames, of all inputs, and of all outputs."""
    frames = [node.name for node in g.frames(skip.graph_module.graph)]
    pairs = state_names(len(portable.states))
    counts = [ACTIVE] if portable.layers else []
    inputs = [*frames, *(before for before, _ in pairs), REFRESH]
    return (
        frames,
        inputs,
        [*leaf_names(structure(skip.out_spec, skip.constants)), *(after for _, after in pairs), *counts],
    )


def _model(skip: "SkipModel", portable: Portable, opset: int) -> Any:
    _, inputs, outputs = _names(skip, portable)
    frames = [torch.zeros(shape) for shape in portable.frames]
    arguments = (*frames, *portable.zero_states(), torch.tensor([True]))
    try:
        with torch.no_grad():
            program = torch.export.export(portable.module, arguments)
        model = onnx.load_from_string(to_onnx(program, opset=opset, names=(inputs, outputs), portable=True))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"the model cannot be exported to ONNX: {lines[0]}") from error
    found = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    if found != (inputs, outputs):
        raise InternalError(f"the exporter lost inputs or outputs: expected {inputs} and {outputs}, got {found}")
    join_lengths(model)
    stamped = {entry.domain: entry.version for entry in model.opset_import if entry.domain == ""}
    if stamped != {"": opset}:
        raise CompileError(f"opset {opset}: an operator of this model has no form in it (got {stamped}); try opset 20")
    return model


def _manifest(skip: "SkipModel", portable: Portable, model: Any, opset: int, gather: bool) -> OnnxManifest:
    frames, _, outputs = _names(skip, portable)
    pairs = state_names(len(portable.states))
    safe, following = safe_states(model, pairs), [after for _, after in pairs]
    states = tuple(
        StateRecord(
            input=pair[0], output=pair[1], layer=state.layer, layout=state.layout, border=state.border,
            size=state.size, shape=state.shape, dtype=_dtype(state.dtype), in_place=safe[pair],
        )
        for pair, state in zip(pairs, portable.states, strict=True)
    )  # fmt: skip
    values = [g.value(node) for node in g.outputs(skip.graph_module.graph)]
    libraries = {name: version(name) for name in ("skipfx", "torch", "onnx", "onnxscript")}
    return OnnxManifest(
        versions=libraries,
        source=_source(skip),
        opset=opset,
        gathered=gather,
        frames=tuple(
            TensorRecord(name=n, shape=s, dtype="float32") for n, s in zip(frames, portable.frames, strict=True)
        ),
        outputs=tuple(
            OutputRecord(
                name=name, shape=tuple(value.shape), dtype=_dtype(value.dtype), state=same_bytes(model, name, following)
            )
            for name, value in zip(outputs[: len(values)], values, strict=True)
        ),
        active=ACTIVE if portable.layers else None,
        states=states,
        state_bytes=sum(state.bytes for state in states),
        safe_in_place=all(state.in_place for state in states),
        layers=tuple(LayerRecord(**vars(layer)) for layer in portable.layers),
        thresholds=_thresholds(skip),
        options=skip.options.model_dump(mode="json"),
        structure=structure(skip.out_spec, skip.constants),
        preprocess=skip.preprocess,
        report=skip.report.model_dump(mode="json"),
    )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _thresholds(skip: "SkipModel") -> dict[str, float]:
    """What a change of each held value must exceed, by the name of its node."""
    found = skip.graph_module.graph.find_nodes(op="call_function", target=ops.changed)
    return {node.args[0].name: node.args[2] for node in found}


def _source(skip: "SkipModel") -> str:
    found = hashlib.sha256(g.text(skip.graph_module).encode())
    for name, tensor in sorted(skip.graph_module.state_dict().items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy(force=True).tobytes())
    return found.hexdigest()


def _detach(model: Any, name: str) -> bytes:
    """Moves the weights out of a model, which then names the file that holds them; returns what it holds."""
    with TemporaryDirectory() as folder:
        onnx.save_model(
            model, Path(folder) / "model.onnx", save_as_external_data=True, location=name, size_threshold=EXTERNAL_ABOVE
        )
        return (Path(folder) / name).read_bytes()
