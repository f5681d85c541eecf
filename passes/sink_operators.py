"""Operators on moved values, moved before the move: f(rearrange(x)) becomes rearrange(f(x)).

Values in channels-last order ([1, H, W, C], or tokens [1, H W, C]) are the common case: there a linear layer is a
1 x 1 convolution, and a norm or softmax over the last axis is one over the channels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.moves import moved
from skipfx.passes.rules.arithmetic import ARITHMETIC
from skipfx.passes.rules.common import Refuse
from skipfx.passes.rules.move import origins
from skipfx.passes.rules.unary import UNARY

aten = torch.ops.aten
LINEAR = {aten.linear.default, aten.matmul.default, aten.mm.default}
SOFTMAX = {aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default}
FILLING = ("constant_pad_nd.default", "pad.default")


def sunk(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The operator before the move that it reads, and that move; None where it must stay."""
    moves = [source for source in node.all_input_nodes if source.target is ops.rearrange]
    if not moves:
        return None
    if node.target in UNARY or node.target in ARITHMETIC:
        return _pointwise(gm, node, moves)
    if node.args[0] is moves[0] and _is_channels_last(moves[0]):
        if node.target in LINEAR:
            return _linear(gm, node, moves[0])
        if node.target is aten.layer_norm.default:
            return _layer_norm(gm, node, moves[0])
        if node.target in SOFTMAX and g.arguments(node)["dim"] in (-1, g.value(node).dim() - 1):
            return _again(gm, node, moves[0], lambda x: (node.target, (x, 1, *node.args[2:])))
    return None


def _source(move: fx.Node) -> tuple[fx.Node, tuple[Any, ...]]:
    args: Any = move.args
    return args[0], args[1]


def _origins(move: fx.Node) -> np.ndarray | None:
    source, steps = _source(move)
    try:
        return origins(tuple(g.value(source).shape), steps)[0]
    except Refuse:
        return None


def _is_channels_last(move: fx.Node) -> bool:
    """Whether the value is the map with its channels as last axis, and its positions in order before it."""
    found = _origins(move)
    _, channels, height, width = g.value(_source(move)[0]).shape
    plain = np.arange(channels * height * width).reshape(channels, -1).T
    return found is not None and found.shape[-1] == channels and np.array_equal(found.reshape(-1, channels), plain)


def _channels_last(shape: tuple[int, ...]) -> tuple[tuple[Any, ...], ...]:
    """The steps from a map to channels-last order."""
    return (("permute.default", (0, 2, 3, 1)), ("reshape.default", shape))


def _again(
    gm: fx.GraphModule, node: fx.Node, move: fx.Node, call: Callable[[fx.Node], tuple[Any, tuple[Any, ...]]]
) -> fx.Node:
    """An operator on the map behind a move, then the move."""
    source, steps = _source(move)
    target, args = call(source)
    result = g.insert(gm.graph, target, args, node, "unknown")
    return g.insert(gm.graph, ops.rearrange, (result, steps), node, "unknown")


def _pointwise(gm: fx.GraphModule, node: fx.Node, moves: list[fx.Node]) -> fx.Node | None:
    move = max(moves, key=lambda one: g.value(one).numel())  # the others may be repeated
    source, steps = _source(move)
    alone = all(len(other.users) == 1 for other in moves)
    if any(step[0] in FILLING for step in steps) or (g.is_map(move) and not alone):
        return None
    args = [_before(gm, arg, move, node) for arg in node.args]
    if any(arg is None and given is not None for arg, given in zip(args, node.args, strict=True)):
        return None
    shape = g.value(source).shape
    if g.value(node).shape != g.value(move).shape:
        return None
    call: Any = node.target
    result = gm.graph.call_function(call, tuple(args), dict(node.kwargs))
    result.meta["val"] = call(*fx.node.map_arg(tuple(args), lambda arg: arg.meta["val"]), **node.kwargs)
    g.record(result).layer = g.record(node).layer
    if result.meta["val"].shape != shape:
        gm.graph.erase_node(result)
        return None
    return g.insert(gm.graph, ops.rearrange, (result, steps), node, "unknown")


def _before(gm: fx.GraphModule, arg: Any, move: fx.Node, node: fx.Node) -> Any:
    """What stands for an operand before the move; None where nothing does."""
    if not isinstance(arg, fx.Node):
        return arg
    if arg is move:
        return _source(move)[0]
    if arg.target is ops.rearrange:
        return _counterpart(gm, arg, move) or _as_map(gm, arg, move)
    tensor = g.parameter(gm, arg)
    if tensor is None:
        return _as_map(gm, arg, move)
    if tensor.numel() == 1:
        return arg
    if _is_channels_last(move) and tensor.numel() == tensor.shape[-1] == g.value(move).shape[-1]:
        name = f"{g.record(node).layer}_{arg.name}"
        return g.add_parameter(gm, name, tensor.reshape(-1, 1, 1), arg)
    return _constant(gm, arg, tensor, move)


def _constant(gm: fx.GraphModule, arg: fx.Node, tensor: Tensor, move: fx.Node) -> fx.Node | None:
    """A constant in the order of the moved value, such as a position embedding of tokens, as a map before the move."""
    found, shape = _origins(move), g.value(_source(move)[0]).shape
    if found is None or np.unique(found).size < found.size or tensor.dim() > found.ndim:
        return None
    values = tensor.expand(found.shape).reshape(-1)
    before = values[:1].repeat(shape.numel())  # what the move leaves out may be anything
    before[torch.from_numpy(found.reshape(-1)).long()] = values
    return g.add_parameter(gm, f"{arg.name}_before", before.view(shape), arg)


def _counterpart(gm: fx.GraphModule, other: fx.Node, move: fx.Node) -> fx.Node | None:
    """What stands for another moved value before the move: a map of the same shape, or one value per channel."""
    mine, theirs = _origins(move), _origins(other)
    shape, source = tuple(g.value(_source(move)[0]).shape), _source(other)[0]
    if mine is None or theirs is None or np.broadcast_shapes(mine.shape, theirs.shape) != mine.shape:
        return None
    if g.value(source).shape == shape and np.array_equal(mine, theirs):
        return source
    channels, places = mine // (shape[2] * shape[3]), np.broadcast_to(theirs, mine.shape)
    of_channel = np.zeros(shape[1], np.int64)
    of_channel[channels.reshape(-1)] = places.reshape(-1)
    if not np.array_equal(of_channel[channels], places):
        return None
    select = ("index_select", 1, tuple(of_channel.tolist()))
    steps = (("reshape.default", (1, -1)), select, ("reshape.default", (1, shape[1], 1, 1)))
    return moved(gm.graph, source, steps, other)


def _as_map(gm: fx.GraphModule, value: fx.Node, move: fx.Node) -> fx.Node | None:
    """A value in the channels-last order of the move, such as what attention returns, as a feature map."""
    found, shape = value.meta.get("val"), g.value(_source(move)[0]).shape
    alike = isinstance(found, torch.Tensor) and found.shape == g.value(move).shape and found.dtype == torch.float32
    if not alike or not _is_channels_last(move):
        return None
    steps = (("reshape.default", (1, *shape[2:], shape[1])), ("permute.default", (0, 3, 1, 2)))
    return g.insert(gm.graph, ops.rearrange, (value, steps), move, "unknown")


def _linear(gm: fx.GraphModule, node: fx.Node, move: fx.Node) -> fx.Node | None:
    """X W^T + b at every position is a 1 x 1 convolution."""
    args = list(g.arguments(node).values())
    weight = g.parameter(gm, args[1])
    bias = args[2] if len(args) > 2 else None
    if weight is None or weight.dim() != 2 or (bias is not None and g.parameter(gm, bias) is None):
        return None
    if node.target is not aten.linear.default:
        weight = weight.T
    layer = g.record(node).layer
    kernel = g.add_parameter(gm, f"{layer}_kernel", weight[:, :, None, None].contiguous(), args[1])
    conv = g.insert(gm.graph, aten.conv2d.default, (_source(move)[0], kernel, bias), node, "unknown")
    return g.insert(gm.graph, ops.rearrange, (conv, _channels_last(tuple(g.value(node).shape))), node, "unknown")


def _layer_norm(gm: fx.GraphModule, node: fx.Node, move: fx.Node) -> fx.Node | None:
    """A norm over the last axis alone is one over the channels, then a factor and a summand per channel."""
    args = g.arguments(node)
    if len(args["normalized_shape"]) != 1:
        return None
    source, steps = _source(move)
    result = g.insert(gm.graph, ops.channel_norm, (source, args["eps"]), node, "unknown")
    for name, target in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
        tensor = g.parameter(gm, args[name])
        if tensor is not None:
            parameter = g.add_parameter(gm, f"{g.record(node).layer}_{name}", tensor.reshape(-1, 1, 1), args[name])
            result = g.insert(gm.graph, target, (result, parameter), node, "unknown")
    return g.insert(gm.graph, ops.rearrange, (result, steps), node, "unknown")
