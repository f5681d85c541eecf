"""The dense engines that a stream is compared with, each at its best settings for one picture at a time.

An engine computes the whole network on every frame, in 32-bit floats, on the CPU. Its weights are prepared beforehand
(packed, batch norms folded where the engine does that), so a call is what one frame costs.

onnxruntime spins for 50 us between its operators, as it does for streams: on an idle machine that makes it about 12 %
faster (two threads, a detector), and a third slower where another process wants a core; without end it would be twice
as slow there. Engines that share a process disturb each other: time them with `dense_worker`.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from skipfx.bench.timing import Step
from skipfx.bench.worker import Worker
from skipfx.errors import SkipfxError, UsageError
from skipfx.runtime.onnx_session import SPINNING
from skipfx.to_onnx import to_onnx

Array = NDArray[Any]
Run = Callable[[Sequence[Array]], list[Array]]
Engine = tuple[str, Run]  # the library's version, and the network on its inputs


class EngineUnavailable(SkipfxError):
    """A dense engine that is not installed, or that cannot run this network."""


@dataclass(frozen=True)
class DenseEngine:
    """A network that is computed as a whole on every frame.

    Attributes:
        name: its name in `ENGINES`.
        version: the version of the library that computes it.
        threads: number of threads of a call.
        run: the network on its inputs.
    """

    name: str
    version: str
    threads: int
    run: Run

    def __call__(self, *frames: Array) -> list[Array]:
        """Computes the network.

        Args:
            *frames: the network's inputs in their order, contiguous, of the shapes it was exported with.

        Returns:
            The output tensors in the order of the leaves of the model's own structure. They may be memory of the
            engine: valid until the next call.
        """
        return self.run(frames)


def dense_engine(name: str, program: ExportedProgram, threads: int) -> DenseEngine:
    """Builds the engine called `name` for a network of static shape.

    Args:
        name: a key of `ENGINES`.
        program: the network; it is left as it is.
        threads: number of threads of a call, 1 or more. For "torch" and "torch-compiled" this sets the number of
            threads of the process.

    Raises:
        UsageError: the name is unknown, or there is no thread.
        EngineUnavailable: the engine is not installed, or it refuses the network; the message holds its reason.
    """
    return built(name, saved(name, program), threads)


def saved(name: str, program: ExportedProgram) -> bytes:
    """A network in the format that the engine called `name` takes, so that a process can build it alone.

    Raises:
        UsageError: the name is unknown.
        EngineUnavailable: the network has no such form; the message holds the reason.
    """
    if name not in ENGINES:
        raise UsageError(f"dense engine {name!r} is unknown: expected one of {', '.join(ENGINES)}")
    with _refusing(name):
        return ENGINES[name].save(program)


def built(name: str, network: bytes, threads: int) -> DenseEngine:
    """The engine called `name` for a network from `saved`; errors as those of `dense_engine`."""
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, got {threads}")
    with _refusing(name):
        version, run = ENGINES[name].build(network, threads)
    return DenseEngine(name, version, threads, run)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except EngineUnavailable:
        raise
    except Exception as error:  # whatever an engine raises, the others can still be compared
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineUnavailable(f"{name} cannot run this network: {reason}; leave it out of the comparison") from error


def dense_worker(name: str, program: ExportedProgram, threads: int, clip: Sequence[tuple[Array, ...]]) -> Worker:
    """Starts a process that runs the engine called `name` on the frames of a clip, over and over.

    Args:
        name: a key of `ENGINES`.
        program: the network.
        threads: number of threads of a call.
        clip: the network's inputs, frame by frame; each frame's inputs as `DenseEngine` takes them.

    Raises:
        UsageError: the clip is empty; or as `dense_engine`.
        EngineUnavailable: as `dense_engine`.
        WorkerError: the process ended.
    """
    if not clip:
        raise UsageError("the clip has no frame: an engine is timed on one frame or more")
    return Worker(_steps, name, saved(name, program), threads, clip)


def _steps(name: str, network: bytes, threads: int, clip: Sequence[tuple[Array, ...]]) -> Iterator[Step]:
    engine = built(name, network, threads)
    return (partial(engine, *frames) for frames in cycle(clip))


def _onnxruntime(network: bytes, threads: int) -> Engine:
    ort = _library("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for key, value in SPINNING.items():
        options.add_session_config_entry(key, value)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(frames: Sequence[Array]) -> list[Array]:
        outputs: list[Array] = session.run(None, dict(zip(names, frames, strict=True)))
        return outputs

    return ort.__version__, run


def _openvino(network: bytes, threads: int) -> Engine:
    openvino = _library("openvino")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # the default takes bfloat16 where the CPU has it
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(network), "CPU", options)
    request = compiled.create_infer_request()

    def run(frames: Sequence[Array]) -> list[Array]:
        return list(request.infer(list(frames), share_inputs=True, share_outputs=True).values())

    return openvino.__version__, run


def _torch(network: bytes, threads: int) -> Engine:
    torch.set_num_threads(threads)
    return torch.__version__, _torch_run(_channels_last(_loaded(network)))


def _torch_compiled(network: bytes, threads: int) -> Engine:
    torch.set_num_threads(threads)
    program = _loaded(network)
    run = _torch_run(torch.compile(_channels_last(program), options={"freezing": True}))
    inputs = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    shapes = [tuple(inputs[name].shape) for name in program.graph_signature.user_inputs]
    run([np.zeros(shape, np.float32) for shape in shapes])  # compiles now, so that a missing C++ compiler shows here
    return torch.__version__, run


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineUnavailable(f'{name} cannot be imported ({error}): pip install "skipfx[bench]"') from error


@lru_cache(maxsize=1)  # two engines in turn take the same network
def _onnx(program: ExportedProgram) -> bytes:
    return to_onnx(program)


def _pt2(program: ExportedProgram) -> bytes:
    file = BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _loaded(network: bytes) -> ExportedProgram:
    return torch.export.load(BytesIO(network))


def _channels_last(program: ExportedProgram) -> nn.Module:
    module: nn.Module = program.module(check_guards=False)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _torch_run(module: Callable[..., object]) -> Run:
    def run(frames: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            outputs = module(*(_tensor(frame) for frame in frames))
        return [leaf.numpy() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]

    return run


def _tensor(frame: Array) -> Tensor:
    tensor = torch.from_numpy(frame)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@dataclass(frozen=True)
class _Kind:
    """How an engine gets its network: in which format, and what builds it of that."""

    save: Callable[[ExportedProgram], bytes]
    build: Callable[[bytes, int], Engine]


ENGINES = {
    "onnxruntime": _Kind(_onnx, _onnxruntime),
    "openvino": _Kind(_onnx, _openvino),
    "torch": _Kind(_pt2, _torch),
    "torch-compiled": _Kind(_pt2, _torch_compiled),
}
