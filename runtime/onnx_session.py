"""An exported model in a stock runtime: sessions, each shared by all streams of an engine, and their bindings."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from skipfx.errors import ArtifactError, UsageError

Array = NDArray[Any]

# Threads of ONNX Runtime wait actively for as long as the gap between two shared operators, and then sleep: being woken
# costs more than a small operator takes, and spinning without end a core that another process wants.
SPINNING = {"session.intra_op.allow_spinning": "1", "session.intra_op.spin_duration_us": "50"}


class Binding(Protocol):
    """One stream's inputs and outputs."""

    def set(self, name: str, array: Array, *, is_input: bool) -> None:
        """Makes the array the memory of an input or output."""

    def run(self) -> None:
        """Computes a frame."""


class Session(Protocol):
    """A loaded model.

    Attributes:
        in_place: an input and an output may be one array.
    """

    in_place: bool

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
        for key, value in SPINNING.items():
            options.add_session_config_entry(key, value)
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


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f'{name} cannot be imported ({error}): pip install "skipfx[bench]"') from error
