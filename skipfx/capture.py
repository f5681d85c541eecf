"""From what the user has (a module, an ExportedProgram, a .pt2 file) to a stream graph in functional ATen."""

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from skipfx import graph as g
from skipfx.errors import CaptureError, FrameError, OptionError
from skipfx.loading import Model, first_line, load, quiet
from skipfx.until import ends, stopped

ASSERTIONS = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
}
_REMEDY = (
    ". Name those that are frames with frames=(...) (--frame NAME); the others are then fixed at their example values"
)


def capture(
    model: Model, inputs: Sequence[Any] | None = None, *, until: Sequence[str] = (), trust_pickle: bool = False
) -> ExportedProgram:
    """Captures a per-frame model as an ExportedProgram in inference form.

    Args:
        model: a module, an ExportedProgram, or the path of a `.pt2` file (or of a pickled module, see below).
        inputs: example inputs, such as frames [1, C, H, W]; None takes the sample inputs saved with the program.
        until: modules whose values become the outputs; only for modules, see `skipfx.until`.
        trust_pickle: also load whole-module pickles, which execute code of their author.

    Raises:
        ArtifactError: the file is missing or is not a saved program.
        CaptureError: `torch.export` cannot capture the model; the message holds its reason.
        FrameError: no example inputs were given and none were saved.
    """
    model = load(model, trust_pickle=trust_pickle)
    if isinstance(model, ExportedProgram):
        return model if is_static(model) else _specialise(model, inputs)
    if not inputs:
        raise FrameError("example inputs are needed to capture a module: pass a tuple such as (frame,)")
    return _export(model, tuple(inputs), until)


def input_names(program: ExportedProgram) -> list[str]:
    """The names of a program's inputs, flattened, in order."""
    return [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def sample_inputs(program: ExportedProgram, inputs: Sequence[Any] | None) -> list[Any]:
    """The given example inputs, or those saved with the program, flattened.

    Raises:
        FrameError: there are none, or not as many as the program takes.
    """
    if inputs is None and program.example_inputs is None:
        raise FrameError("the program was saved without sample inputs: pass example inputs, such as (frame,)")
    leaves: list[Any] = pytree.tree_leaves(program.example_inputs if inputs is None else tuple(inputs))
    count = len(input_names(program))
    if len(leaves) != count:
        raise FrameError(f"the model takes {count} inputs, got {len(leaves)} example inputs")
    return leaves


def example_frames(program: ExportedProgram, frames: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """The given example inputs, or those saved with the program, checked.

    Raises:
        FrameError: there are none, or one is not a float32 picture [1, C, H, W] of the program's shape.
    """
    frames = sample_inputs(program, frames)
    for index, (frame, want) in enumerate(zip(frames, _user_inputs(program), strict=True)):
        if not isinstance(frame, Tensor) or frame.dim() != 4 or frame.dtype != torch.float32:
            wanted = "expected a float32 tensor [1, C, H, W]"
            raise FrameError(
                f"input {index} is no frame: {wanted}, got {_describe(frame)}{_REMEDY if len(frames) > 1 else ''}"
            )
        if frame.shape[0] != 1:
            raise FrameError(f"input {index}: transform with a batch of one frame, got a batch of {frame.shape[0]}")
        if any(isinstance(size, int) and size != frame.shape[axis] for axis, size in enumerate(want.shape)):
            raise FrameError(f"input {index}: the program was saved for {list(want.shape)}, got {list(frame.shape)}")
        if not torch.isfinite(frame).all():
            raise FrameError(f"input {index}: the example holds NaN or infinity")
    return tuple(frame.detach() for frame in frames)


def constant_outputs(program: ExportedProgram) -> dict[int, Any]:
    """The outputs that are None, numbers or strings, by their place among all outputs, flattened."""
    leaves = [spec.arg for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    return {index: leaf.value for index, leaf in enumerate(leaves) if isinstance(leaf, ConstantArgument)}


def stream_graph(program: ExportedProgram) -> fx.GraphModule:
    """The program as a stream graph without states yet: `graph(*frames, refresh) -> ((output, ...), ())`.

    Raises:
        CaptureError: the model keeps state of its own, returns what is no tensor, or calls what is no operator.
    """
    with quiet():
        functional = program.run_decompositions({})
    _refuse_state(functional)
    with quiet():
        unlifted = functional.module(check_guards=False)
    gm = fx.GraphModule(unlifted, unlifted.graph)  # without the hooks that check the exported signature
    graph = gm.graph
    graph.set_codegen(fx.graph.CodeGen())
    _drop_assertions(graph)
    _refuse_calls(graph)
    leaves = [leaf for leaf in graph.output_node().args[0] if isinstance(leaf, fx.Node)]  # type: ignore[union-attr]
    if not leaves or not all(isinstance(leaf.meta["val"], Tensor) for leaf in leaves):
        raise CaptureError("the model returns numbers that depend on the frame, or no tensor: return tensors")
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


def _export(model: nn.Module, inputs: tuple[Any, ...], until: Sequence[str]) -> ExportedProgram:
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), quiet(), stopped(model, inputs, until):
            return torch.export.export(model, inputs)
    except OptionError:
        raise
    except Exception as error:
        raise CaptureError(_failure(model, inputs, error)) from error
    finally:
        model.train(training)


def _failure(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> str:
    """Why a module cannot be captured, and what can be done."""
    with torch.no_grad(), quiet():
        found = ends(model, lambda: torch.export.export(model, inputs))
    cut = f"Cut it there with until={tuple(found)} (--until NAME), and do the rest outside. " if found else ""
    cause = next((line for line in str(error).splitlines() if line.startswith("Caused by")), "")
    return (
        f"torch.export cannot capture {type(model).__name__}: {first_line(error)} {cause}\n"
        "Control flow that depends on the values of a frame must move out of the model. "
        f"{cut}torch.export.draft_export(model, (frame,)) shows the line."
    )


def _user_inputs(program: ExportedProgram) -> list[Any]:
    """What stands for the inputs in a captured program: fake tensors, and whatever else the model takes."""
    placeholders = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    return [placeholders[name] for name in input_names(program)]


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


def is_static(program: ExportedProgram) -> bool:
    """Whether a program takes inputs of one size only."""
    tensors = [value for value in _user_inputs(program) if isinstance(value, Tensor)]
    return all(isinstance(size, int) for tensor in tensors for size in tensor.shape)


def _specialise(program: ExportedProgram, inputs: Sequence[Any] | None) -> ExportedProgram:
    """A program with sizes left open, for the sizes of the example inputs."""
    args, kwargs = pytree.tree_unflatten(sample_inputs(program, inputs), program.call_spec.in_spec)
    with torch.no_grad(), quiet():
        return torch.export.export(program.module(check_guards=False), args, kwargs)


def _start_record(node: fx.Node) -> None:
    found = g.record(node)
    if node.op == "placeholder":
        found.role = "frame"
    elif node.op == "get_attr":
        found.role = "parameter"
    found.layer = g.layer(node)


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
