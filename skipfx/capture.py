"""From what the user has (a module, an ExportedProgram, a .pt2 file) to a stream graph in functional ATen."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from skipfx import graph as g
from skipfx.errors import ArtifactError, CaptureError, FrameError

ASSERTIONS = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
}
Model = nn.Module | ExportedProgram | str | Path


def capture(model: Model, frames: Sequence[Tensor] | None = None, *, trust_pickle: bool = False) -> ExportedProgram:
    """Captures a per-frame model as an ExportedProgram in inference form.

    Args:
        model: a module, an ExportedProgram, or the path of a `.pt2` file (or of a pickled module, see below).
        frames: example inputs, each [1, C, H, W]; None takes the sample inputs saved with the program.
        trust_pickle: also load whole-module pickles, which execute code of their author.

    Raises:
        ArtifactError: the file is missing or is not a saved program.
        CaptureError: `torch.export` cannot capture the model; the message holds its reason.
        FrameError: no example inputs were given and none were saved.
    """
    if isinstance(model, str | Path):
        model = load_model(Path(model), trust_pickle=trust_pickle)
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(_SCRIPTED)
    if isinstance(model, ExportedProgram):
        return model if _is_static(model) else _specialise(model, frames)
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, an ExportedProgram or a path, got {type(model).__name__}")
    if not frames:
        raise FrameError("example inputs are needed to capture a module: pass a tuple such as (frame,)")
    return _export(model, tuple(frames))


def example_frames(program: ExportedProgram, frames: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """The given example inputs, or those saved with the program, checked.

    Raises:
        FrameError: there are none, or one is not a float32 picture [1, C, H, W] of the program's shape.
    """
    if frames is None:
        if program.example_inputs is None:
            raise FrameError("the program was saved without sample inputs: pass example inputs, such as (frame,)")
        args, kwargs = program.example_inputs
        frames = [*args, *kwargs.values()]
    expected = [value for value in _user_inputs(program) if value is not None]
    if len(frames) != len(expected):
        raise FrameError(f"the model takes {len(expected)} inputs, got {len(frames)} example inputs")
    for index, (frame, want) in enumerate(zip(frames, expected, strict=True)):
        if not isinstance(frame, Tensor) or frame.dim() != 4 or frame.dtype != torch.float32:
            wanted = "expected a float32 tensor [1, C, H, W]"
            raise FrameError(f"input {index} is no frame: {wanted}, got {_describe(frame)}")
        if frame.shape[0] != 1:
            raise FrameError(f"input {index}: transform with a batch of one frame, got a batch of {frame.shape[0]}")
        if any(isinstance(size, int) and size != frame.shape[axis] for axis, size in enumerate(want.shape)):
            raise FrameError(f"input {index}: the program was saved for {list(want.shape)}, got {list(frame.shape)}")
        if not torch.isfinite(frame).all():
            raise FrameError(f"input {index}: the example holds NaN or infinity")
    return tuple(frame.detach() for frame in frames)


def stream_graph(program: ExportedProgram) -> fx.GraphModule:
    """The program as a stream graph without states yet: `graph(*frames, refresh) -> ((output, ...), ())`.

    Raises:
        CaptureError: the model keeps state of its own, returns what is no tensor, or calls what is no operator.
    """
    with _quiet():
        functional = program.run_decompositions({})
    _refuse_state(functional)
    with _quiet():
        unlifted = functional.module(check_guards=False)
    gm = fx.GraphModule(unlifted, unlifted.graph)  # without the hooks that check the exported signature
    graph = gm.graph
    graph.set_codegen(fx.graph.CodeGen())
    _drop_assertions(graph)
    _refuse_calls(graph)
    leaves = list(graph.output_node().args[0])  # type: ignore[arg-type]
    if not all(isinstance(leaf, fx.Node) and isinstance(leaf.meta["val"], Tensor) for leaf in leaves):
        raise CaptureError("the model returns numbers or constants beside tensors: return tensors only")
    for node in graph.nodes:
        _start_record(node)
    with graph.inserting_before(next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))):
        refresh = graph.placeholder("refresh")
    fake = g.value(leaves[0])
    refresh.meta["val"] = fake.new_empty((), dtype=torch.bool)
    g.record(refresh).role = "refresh"
    g.set_outputs(graph, tuple(leaves), ())
    gm.recompile()
    return gm


def load_model(
    path: Path, *, trust_pickle: bool = False, extra_files: dict[str, Any] | None = None
) -> nn.Module | ExportedProgram:
    """Loads a `.pt2` program, or a whole-module pickle where that is asked for.

    Both execute code of their author when they are loaded: only open files that you trust.

    Args:
        path: the file.
        trust_pickle: also load whole-module pickles.
        extra_files: name -> "", filled in with what stands in the file beside the program.

    Raises:
        ArtifactError: the file is missing, damaged or of another kind; the message says what to do.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        with _quiet():
            return torch.export.load(str(path), extra_files=extra_files)
    except Exception as error:
        if path.suffix == ".pt2" and not trust_pickle:
            raise ArtifactError(f"{path}: not a readable torch.export file: {_first_line(error)}") from error
    if not trust_pickle:
        raise ArtifactError(
            f"{path}: not a .pt2 program. Save the model with torch.export.save(torch.export.export(model, (frame,)), "
            "path), or, if it is a pickled module that you trust, pass --trust-pickle (trust_pickle=True)."
        )
    try:
        with _quiet():
            loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ArtifactError(f"{path}: cannot be unpickled: {_first_line(error)}") from error
    if isinstance(loaded, torch.jit.ScriptModule):
        raise CaptureError(_SCRIPTED)
    if not isinstance(loaded, nn.Module):
        raise ArtifactError(f"{path}: holds {type(loaded).__name__}, expected a torch.nn.Module")
    return loaded


_SCRIPTED = (
    "TorchScript cannot be captured: load the original nn.Module and pass it, or save it with torch.export.save "
    "(torch.jit is deprecated; torch._export.converter.TS2EPConverter converts some scripted models)."
)


def _export(model: nn.Module, frames: tuple[Tensor, ...]) -> ExportedProgram:
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(model, frames)
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {_first_line(error)}\n"
            "Control flow that depends on the values of a frame must move out of the model; "
            "torch.export.draft_export(model, (frame,)) shows the line."
        ) from error
    finally:
        model.train(training)


def _user_inputs(program: ExportedProgram) -> Iterator[Tensor | None]:
    placeholders = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            yield placeholders[spec.arg.name]


def _refuse_state(program: ExportedProgram) -> None:
    kept = [spec.target for spec in program.graph_signature.output_specs if spec.kind is not OutputKind.USER_OUTPUT]
    if kept:
        raise CaptureError(
            f"the model writes to its own buffers or inputs ({', '.join(map(str, kept))}): a per-frame model keeps no "
            "state; make them inputs and outputs, or export in eval mode"
        )


def _drop_assertions(graph: fx.Graph) -> None:
    """Removes the checks that `torch.export` leaves behind, and the arithmetic on sizes that only they read."""
    for node in list(graph.nodes):
        if node.target in ASSERTIONS:
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _refuse_calls(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op == "call_function" and not isinstance(node.target, OpOverload) and node.target is not getitem:
            raise CaptureError(
                f"the model calls {node.target}, which is no operator on tensors: control flow and arithmetic on sizes "
                "must move out of the model, or be fixed when it is exported"
            )


def _is_static(program: ExportedProgram) -> bool:
    frames = [value for value in _user_inputs(program) if value is not None]
    return all(isinstance(size, int) for frame in frames for size in frame.shape)


def _specialise(program: ExportedProgram, frames: Sequence[Tensor] | None) -> ExportedProgram:
    """A program with sizes left open, for the sizes of the example frames."""
    examples = example_frames(program, frames)
    with torch.no_grad(), _quiet():
        return torch.export.export(program.module(check_guards=False), examples)


def _start_record(node: fx.Node) -> None:
    found = g.record(node)
    if node.op == "placeholder":
        found.role = "frame"
    elif node.op == "get_attr":
        found.role = "parameter"
    stack = node.meta.get("nn_module_stack")
    if stack:
        found.layer = list(stack.values())[-1][0]


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings about torch's own deprecations from the user, who cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
