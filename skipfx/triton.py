"""The configuration of a Triton server for an exported model.

A sequence is a camera. Its first request carries the START flag, which opens every gate, so whatever the state holds
then is never seen; it is zero all the same.
"""

from collections.abc import Iterator, Sequence

from skipfx.onnx_manifest import OnnxManifest, TensorRecord

TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "bool": "TYPE_BOOL"}
IDLE_MICROSECONDS = 60_000_000
SEQUENCES = 64


def triton_config(manifest: OnnxManifest, filename: str) -> str:
    """The text of `config.pbtxt`.

    Args:
        manifest: of the model.
        filename: of the model, as it lies in the version's folder.
    """
    lines = [
        'backend: "onnxruntime"',
        f'default_model_filename: "{filename}"',
        "max_batch_size: 0",
        *_tensors("input", manifest.frames),
        *_tensors("output", manifest.outputs),
        "sequence_batching {",
        f"  max_sequence_idle_microseconds: {IDLE_MICROSECONDS}",
        f"  oldest {{ max_candidate_sequences: {SEQUENCES} }}",
        "  control_input {",
        f'    name: "{manifest.refresh}"',
        "    control { kind: CONTROL_SEQUENCE_START bool_false_true: [ false, true ] }",
        "  }",
        *_states(manifest),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: Sequence[TensorRecord]) -> Iterator[str]:
    for tensor in tensors:
        dims = _dims(tensor.shape)
        yield f'{kind} {{ name: "{tensor.name}" data_type: {TYPES[tensor.dtype]} dims: {dims} }}'


def _states(manifest: OnnxManifest) -> Iterator[str]:
    for state in manifest.states:
        kind, dims = TYPES[state.dtype], _dims(state.shape)
        yield "  state {"
        yield f'    input_name: "{state.input}" output_name: "{state.output}" data_type: {kind} dims: {dims}'
        yield f'    initial_state {{ name: "zero" data_type: {kind} dims: {dims} zero_data: true }}'
        if state.in_place:
            yield "    use_same_buffer_for_input_output: true"
        yield "  }"


def _dims(shape: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, shape or (1,)))} ]"
