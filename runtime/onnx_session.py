"""An exported model in a stock runtime: sessions, and the memory of one stream bound to them.

A session is shared by all streams of an engine. A binding has the state of one stream in two sets of arrays, which take
turns as input and output; a state that may be written in place is the same array in both.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import ArtifactError, UsageError
from skipfx.onnx_manifest import OnnxManifest

Array = NDArray[Any]


class Binding(Protocol):
    """One stream's inputs and outputs."""

    def set(self, name: str, array: Array, *, is_input: bool) -> None:
        """Makes the array the memory of an input or output."""

    def run(self) -> None:
        """Computes a frame."""


class Session(Protocol):
    """A loaded model."""

    def binding(self) -> Binding:
        """A new binding."""


class OnnxruntimeSession:
    """The model in ONNX Runtime."""

    in_place = True

    def __init__(self, path: str, threads: int) -> None:
        ort = _library("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def binding(self) -> Binding:
        """See `Session`."""
        return _OnnxruntimeBinding(self._session)


class _OnnxruntimeBinding:
    def __init__(self, session: Any) -> None:
        self._session, self._binding = session, session.io_binding()
        self._kept: dict[str, Array] = {}  # the runtime holds addresses only

    def set(self, name: str, array: Array, *, is_input: bool) -> None:
        bind = self._binding.bind_input if is_input else self._binding.bind_output
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._kept[name] = array

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)


class OpenvinoSession:
    """The model in OpenVINO, in 32-bit floats."""

    in_place = False

    def __init__(self, path: str, threads: int) -> None:
        self._openvino = _library("openvino")
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._compiled = self._openvino.Core().compile_model(path, "CPU", options)

    def binding(self) -> Binding:
        """See `Session`."""
        return _OpenvinoBinding(self._openvino, self._compiled.create_infer_request())


class _OpenvinoBinding:
    def __init__(self, openvino: Any, request: Any) -> None:
        self._openvino, self._request = openvino, request

    def set(self, name: str, array: Array, *, is_input: bool) -> None:
        self._request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))

    def run(self) -> None:
        self._request.infer()


SESSIONS: Mapping[str, Any] = {"onnxruntime": OnnxruntimeSession, "openvino": OpenvinoSession}


def open_session(runtime: str, path: str, threads: int) -> Session:
    """The model of a file in the runtime of that name.

    Raises:
        UsageError: there is no such runtime, or it is not installed.
        ArtifactError: it cannot load the model.
    """
    if runtime not in SESSIONS:
        raise UsageError(f"runtime {runtime!r} is unknown: expected one of {', '.join(SESSIONS)}")
    try:
        session: Session = SESSIONS[runtime](path, threads)
    except UsageError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{path}: {runtime} cannot load the model: {reason}") from error
    return session


class BoundState:
    """The memory of one stream, bound to a session.

    Args:
        session: where it runs.
        manifest: of the model.
        in_place: write those states in place that allow it; the session must allow it too.
    """

    def __init__(self, session: Any, manifest: OnnxManifest, in_place: bool) -> None:
        self._manifest, self._turn = manifest, 0
        arrays = [np.zeros(state.shape, state.dtype) for state in manifest.states]
        others = [
            array if in_place and session.in_place and state.in_place else np.zeros_like(array)
            for array, state in zip(arrays, manifest.states, strict=True)
        ]
        self._sets = (arrays, others)
        self._refresh = np.zeros(1, np.bool_)
        self.active = np.zeros(len(manifest.layers), np.float32)
        self._bindings = [self._bind(session.binding(), turn) for turn in (0, 1)]

    def _bind(self, binding: Binding, turn: int) -> Binding:
        for index, state in enumerate(self._manifest.states):
            binding.set(state.input, self._sets[turn][index], is_input=True)
            binding.set(state.output, self._sets[1 - turn][index], is_input=False)
        binding.set(self._manifest.refresh, self._refresh, is_input=True)
        if self._manifest.active is not None:
            binding.set(self._manifest.active, self.active, is_input=False)
        return binding

    def run(self, frames: Sequence[Array], outputs: Sequence[Array], refresh: bool) -> None:
        """Computes a frame into the arrays of the outputs."""
        binding = self._bindings[self._turn]
        for record, array in zip(self._manifest.frames, frames, strict=True):
            binding.set(record.name, array, is_input=True)
        for record, array in zip(self._manifest.outputs, outputs, strict=True):
            binding.set(record.name, array, is_input=False)
        self._refresh[0] = refresh
        binding.run()
        self._turn = 1 - self._turn

    @property
    def states(self) -> list[Array]:
        """The arrays that hold the state now."""
        return self._sets[self._turn]


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f'{name} cannot be imported ({error}): pip install "skipfx[bench]"') from error
