"""What is made of a captured model before it is transformed: inputs that are no frames, other float types, a cut.

The program is captured again without them, so that all that follows sees one plain program of float32 frames.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.traceback import preserve_node_meta
from torch.utils import _pytree as pytree

from skipfx.capture import capture, example_frames, input_names, sample_inputs
from skipfx.errors import OptionError
from skipfx.loading import Model, load, quiet
from skipfx.until import are_modules, cut

OTHER_FLOATS = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float64: "float64"}


@dataclass(frozen=True)
class Adapted:
    """A program of float32 frames alone.

    Attributes:
        program: takes frames [1, C, H, W] and nothing else, each as an argument of its own.
        frames: the examples of its frames.
        notes: what was changed, in words for the user.
    """

    program: ExportedProgram
    frames: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()


def adapt(
    model: Model,
    inputs: Sequence[Any] | None = None,
    *,
    frames: Sequence[str | int] | None = None,
    until: Sequence[str] = (),
    trust_pickle: bool = False,
) -> Adapted:
    """Captures a model, and brings it into the one form that is transformed.

    Args:
        model: a module, an ExportedProgram, or the path of a `.pt2` file.
        inputs: example inputs; None: those saved with the program.
        frames: names or numbers of the inputs that are frames; the others are fixed at their example values. None: all
            inputs are frames.
        until: names of modules or nodes whose values become the outputs; what stands behind them is left out.
        trust_pickle: also load whole-module pickles, which execute code of their author.

    Raises:
        ArtifactError, CaptureError, FrameError: as `skipfx.capture.capture` does.
        OptionError: `frames` or `until` names what is not there.
    """
    model, until = load(model, trust_pickle=trust_pickle), tuple(until)
    stop = until if are_modules(model, until) else ()
    program = capture(model, _as_weights(model, inputs), until=stop)
    names = input_names(program)
    chosen = _frames(names, frames)
    others = _other_floats(program)
    notes = [f"input {name} is fixed at its example value" for name in names if name not in chosen]
    notes += [f"weights of {word} are computed with in float32" for word in others]
    notes += [f"cut behind {name}" for name in until]
    plain = program.call_spec.in_spec == pytree.tree_structure(((0,) * len(names), {}))
    if plain and chosen == names and not others and stop == until:
        return Adapted(program, example_frames(program, inputs), tuple(notes))
    values = dict(zip(names, sample_inputs(program, inputs), strict=True))
    if others:
        values = {name: _in_float32(value) for name, value in values.items()}
    edited = _edited(program, values, chosen, () if stop else until, widen=bool(others))
    examples = tuple(values[name] for name in chosen)
    program = capture(edited, examples)
    return Adapted(program, example_frames(program, examples), tuple(notes))


def _frames(names: list[str], frames: Sequence[str | int] | None) -> list[str]:
    """The names of the inputs that are frames, in the model's order."""
    if frames is None:
        return names
    frames = (frames,) if isinstance(frames, str) else frames
    asked = {names[key] if isinstance(key, int) and 0 <= key < len(names) else key for key in frames}
    if unknown := asked - set(names):
        raise OptionError(f"frames: the model has no input {', '.join(map(repr, unknown))}; it has {', '.join(names)}")
    if not asked:
        raise OptionError("frames: name at least one input")
    return [name for name in names if name in asked]


def _other_floats(program: ExportedProgram) -> list[str]:
    """The float types but float32 of parameters and example inputs."""
    inputs = pytree.tree_leaves(program.example_inputs or ())
    found = {value.dtype for value in (*program.parameters(), *inputs) if isinstance(value, Tensor)}
    return [word for dtype, word in OTHER_FLOATS.items() if dtype in found]


def _as_weights(model: nn.Module | ExportedProgram, inputs: Sequence[Any] | None) -> Sequence[Any] | None:
    """The example inputs in the float type of a module's weights, which is what the module takes."""
    dtypes = {value.dtype for value in model.parameters() if value.is_floating_point()}
    if inputs is None or isinstance(model, ExportedProgram) or not dtypes or torch.float32 in dtypes:
        return inputs
    dtype = next(iter(dtypes))
    cast: Sequence[Any] = pytree.tree_map(
        lambda value: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value, inputs
    )
    return cast


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in OTHER_FLOATS else value


def _edited(
    program: ExportedProgram, values: dict[str, Any], frames: list[str], until: Sequence[str], *, widen: bool
) -> nn.Module:
    """The program as a module of its frames that can be captured again."""
    with quiet():
        unlifted = program.run_decompositions({}).module(check_guards=False)
    gm = fx.GraphModule(unlifted, unlifted.graph)
    gm.graph.set_codegen(fx.graph.CodeGen())
    if widen:
        gm = _widened(gm)
    return _Edited(gm, values, frames, cut(gm.graph, until) if until else program.call_spec.out_spec)


def _widened(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy with parameters and casts of other float types turned into float32."""
    with quiet():
        gm = copy.deepcopy(gm).float()
    for node in gm.graph.nodes:
        node.args, node.kwargs = pytree.tree_map(
            lambda value: torch.float32 if isinstance(value, torch.dtype) and value in OTHER_FLOATS else value,
            (node.args, node.kwargs),
        )
    return gm


class _Edited(nn.Module):
    """Runs a graph on frames and fixed values."""

    def __init__(
        self, gm: fx.GraphModule, values: dict[str, Any], frames: list[str], out_spec: pytree.TreeSpec
    ) -> None:
        super().__init__()
        self.gm, self.out_spec = gm, out_spec
        self.frames, self.values = frames, values
        for name, value in values.items():
            if isinstance(value, Tensor) and name not in frames:
                self.register_buffer(f"fixed_{name}", value)
        self.forward = self._named_forward()

    def _named_forward(self) -> Callable[..., Any]:
        """A `forward` with a parameter per frame, so that they keep their names."""

        def forward(*frames: Tensor) -> Any:
            given = dict(zip(self.frames, frames, strict=True))
            inputs = [given.get(name, getattr(self, f"fixed_{name}", value)) for name, value in self.values.items()]
            with preserve_node_meta():  # a node keeps the module that it came from
                outputs = fx.Interpreter(self.gm).run(*inputs)
            return pytree.tree_unflatten(list(outputs), self.out_spec)

        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in self.frames]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward
