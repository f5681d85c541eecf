"""Collects chains of operators that only move values about into one `ops.rearrange`, and moves arithmetic before them.

    view(transpose(view(x)))          ->  rearrange(x)
    f(rearrange(x)), f pointwise      ->  rearrange(f(x))
    linear(permute(x)) over channels  ->  permute(conv2d(x))     (`skipfx.passes.sink_operators`)
    cat([x, y]) along rows, columns   ->  pad(x) + pad(y)

Arithmetic sinks through a move where the moved value is no feature map, so that it becomes one, or has no other
reader, so that it is computed with what made it. A move back to the former place cancels out. What remains is a move
between two feature maps, or the way into an operator that is not local.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.base import Pass
from skipfx.passes.moves import moved
from skipfx.passes.rules.move import is_local
from skipfx.passes.sink_operators import sunk
from skipfx.passes.sink_stacks import unstacked
from skipfx.spec import Stage

aten = torch.ops.aten
MOVES = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int,
    aten.movedim.int, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.flatten.using_ints, aten.unflatten.int, aten.slice.Tensor, aten.select.int, aten.narrow.default,
    aten.flip.default, aten.roll.default, aten.repeat.default, aten.tile.default, aten.repeat_interleave.self_int,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default,
    aten.constant_pad_nd.default, aten.pad.default, aten.reflection_pad2d.default, aten.replication_pad2d.default,
    aten.rot90.default, aten.t.default,
}  # fmt: skip
INDEXING = {aten.index_select.default, aten.index.Tensor}


@dataclass(frozen=True)
class CollectMoves(Pass):
    """Chains of moves become one node each, behind the arithmetic between them."""

    name = "collect_moves"
    stage = Stage.CANONICAL

    def apply(self, gm: fx.GraphModule) -> bool:
        """See `Pass.apply`."""
        modified = False
        for node in list(gm.graph.nodes):
            if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            with gm.graph.inserting_before(node):
                plain = (
                    _joined(gm, node)
                    or _laid_out(gm, node)
                    or _collected(gm, node)
                    or unstacked(gm, node)
                    or sunk(gm, node)
                )
            if plain is not None:
                node.replace_all_uses_with(plain)
                gm.graph.erase_node(node)
                modified = True
        return modified


def _collected(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A move of a feature map, alone or behind a move."""
    source = node.args[0] if node.args else None
    if node.target not in MOVES | INDEXING or not isinstance(source, fx.Node) or _is_view(node):
        return None
    step = _step(gm, node)
    if step is None:
        return None
    steps: tuple[Any, ...] = (step,)
    if source.target is ops.rearrange and not _parts(source, step):
        args: Any = source.args
        source, steps = args[0], (*args[1], step)
    return moved(gm.graph, source, steps, node) if g.is_map(source) else None


def _parts(move: fx.Node, step: tuple[Any, ...]) -> bool:
    """Whether a move between maps ends here: the next step leads away from maps."""
    args: Any = move.args
    shape = tuple(g.value(args[0]).shape)
    return is_local(shape, args[1]) and not is_local(shape, (*args[1], step))


def _is_view(node: fx.Node) -> bool:
    """A run of channels costs nothing as it is."""
    if node.target is not aten.slice.Tensor or not g.is_map(node) or not g.is_map(node.args[0]):
        return False
    args = g.arguments(node)
    return bool(args["dim"] % 4 == 1 and args["step"] == 1)


def _step(gm: fx.GraphModule, node: fx.Node) -> tuple[Any, ...] | None:
    """The call as data."""
    if node.target in INDEXING:
        return _indices(gm, node)
    schema: Any = node.target
    given = g.arguments(node)
    arguments = tuple(given[arg.name] for arg in schema._schema.arguments[1:] if not arg.kwarg_only)
    if any(isinstance(arg, fx.Node) for arg in arguments):
        return None
    is_view = node.target in (aten.view.default, aten._unsafe_view.default)
    name = "reshape.default" if is_view else str(node.target).removeprefix("aten.")
    return (name, *(tuple(arg) if isinstance(arg, list | tuple) else arg for arg in arguments))


def _indices(gm: fx.GraphModule, node: fx.Node) -> tuple[Any, ...] | None:
    """A selection along one axis by constant indices."""
    if node.target is aten.index_select.default:
        _, dim, index = node.args
    else:
        given: Any = node.args[1]
        axes = [axis for axis, entry in enumerate(given) if entry is not None]
        if len(axes) != 1:
            return None
        dim, index = axes[0], given[axes[0]]
    tensor = g.parameter(gm, index)
    if tensor is None or tensor.dim() != 1 or tensor.dtype != torch.int64:
        return None
    return ("index_select", dim, tuple(tensor.tolist()))


def _joined(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """stack(maps) as a rearranged concatenation."""
    parts: Any = node.args[0] if node.args else None
    if node.target is not aten.stack.default or not all(g.is_map(part) for part in parts):
        return None
    shape, dim = tuple(g.value(parts[0]).shape), g.arguments(node)["dim"] % 5
    joined = g.insert(gm.graph, aten.cat.default, (list(parts), 1), node, "unknown")
    steps = (("reshape.default", (1, len(parts), *shape[1:])), ("movedim.int", 1, dim))
    return g.insert(gm.graph, ops.rearrange, (joined, steps), node, "unknown")


def _laid_out(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """cat(maps) along rows or columns, as a sum of maps that are zero where the others lie."""
    if node.target is not aten.cat.default or not g.is_map(node):
        return None
    args = g.arguments(node)
    parts, axis, start, found = args["tensors"], args["dim"] % 4, 0, None
    if axis < 2 or not all(map(g.is_map, parts)):
        return None
    for part in parts:
        end = start + g.value(part).shape[axis]
        sides = (start, g.value(node).shape[axis] - end)
        steps = (("constant_pad_nd.default", sides if axis == 3 else (0, 0, *sides), 0.0),)
        constant, start = g.parameter(gm, part), end
        if constant is None:
            placed = moved(gm.graph, part, steps, node)
        else:
            placed = g.add_parameter(gm, f"{part.name}_placed", ops.rearrange(constant, steps), part)
        found = placed if found is None else g.insert(gm.graph, aten.add.Tensor, (found, placed), node, "unknown")
    return found
