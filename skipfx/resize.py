"""The same model for frames of another size.

A module, or a program saved with open sizes, is captured again for the new size, which is exact. A program saved for
one size, or of which inputs were fixed, is followed on a frame of the new size, and refused where an operator has a
size built in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.nn import functional as F

from skipfx import graph as g
from skipfx.adapt import Adapted, adapt
from skipfx.capture import input_names, is_static
from skipfx.errors import CaptureError
from skipfx.loading import first_line, quiet

aten = torch.ops.aten
Size = tuple[int, int]
Recapture = Callable[[Size], Adapted]

SIZED = {  # the arguments that name sizes
    aten.reshape.default: "shape",
    aten.view.default: "size",
    aten.expand.default: "size",
    aten.slice.Tensor: "end",
    aten.upsample_nearest2d.vec: "output_size",
    aten.upsample_bilinear2d.vec: "output_size",
    aten.upsample_bicubic2d.vec: "output_size",
}
ENDLESS = 2**63 - 1  # the end of a slice that takes all


def recapture(
    model: nn.Module | ExportedProgram, found: Adapted, frames: Sequence[str | int] | None, until: Sequence[str]
) -> Recapture:
    """How a model is captured for frames of another size.

    Args:
        model: what was captured.
        found: what came of it.
        frames: as given to `adapt`,
        until: likewise.
    """
    if frames is not None or (isinstance(model, ExportedProgram) and is_static(model)):
        return lambda size: resized(found.program, size)

    def again(size: Size) -> Adapted:
        return adapt(model, (F.interpolate(found.frames[0], size),), until=until)

    return again


def resized(program: ExportedProgram, size: Size) -> Adapted:
    """A program that was saved for one size, for frames of another.

    Raises:
        CaptureError: an operator has a size built in; the message names it and what to do.
    """
    frame = F.interpolate(_frame(program), size)
    with torch.no_grad(), quiet():
        unlifted = program.run_decompositions({}).module(check_guards=False)
        gm = fx.GraphModule(unlifted, unlifted.graph)  # without the hooks that check the size
        _follow(gm, frame)
        return Adapted(torch.export.export(gm, (frame,)), (frame,))


def _frame(program: ExportedProgram) -> Tensor:
    (name,) = input_names(program)
    return torch.zeros(next(n.meta["val"].shape for n in program.graph.nodes if n.name == name))


def _follow(gm: fx.GraphModule, frame: Tensor) -> None:
    """Runs a graph on the shape of a frame; an operator that has another size built in is refused."""
    follower = _Follower(gm)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            follower.run(mode.from_tensor(frame))
    except Exception as error:
        raise CaptureError(_built_in(follower.node, first_line(error))) from error


class _Follower(fx.Interpreter):
    """Runs a graph on values of other shapes than it was captured with, up to a node that has a size built in."""

    node: fx.Node

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.resized: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node."""
        self.node = n
        size = g.arguments(n)[SIZED[n.target]] if n.target in SIZED else None
        if size not in (None, ENDLESS) and self.resized & set(n.all_input_nodes):
            raise ValueError(f"to {size}")
        if n.op == "call_function" and not n.all_input_nodes:
            raise ValueError("a constant of a fixed size")
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "output" and result.shape != g.value(n).shape:
            self.resized.add(n)
        return result


def _built_in(node: fx.Node, what: str) -> str:
    where = g.layer(node) or node.name
    return (
        f"the program was saved for one size, which is built into {where} ({node.target}: {what}): transform the "
        "module itself, save the program with open sizes (dynamic_shapes), or transform and compile it for each size"
    )
