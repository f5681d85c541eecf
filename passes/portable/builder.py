"""Writes a graph of plain ATen: calls, each made once, and constants, each kept once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn


class Builder:
    """A graph in the making. Everything in it is functional, so equal calls are one call."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self._calls: dict[Any, fx.Node] = {}
        self._constants: dict[Any, fx.Node] = {}

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """The value of a call."""
        key = (target, _hashable(args), _hashable(tuple(kwargs.items())))
        if key not in self._calls:
            self._calls[key] = self.graph.call_function(target, args, kwargs)
        return self._calls[key]

    def constant(self, tensor: Tensor) -> fx.Node:
        """The value of a constant."""
        tensor = tensor.detach().contiguous()
        key = (tensor.dtype, tuple(tensor.shape), tensor.numpy(force=True).tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants):03d}"
            self.root.register_buffer(name, tensor)
            self._constants[key] = self.graph.get_attr(name)
        return self._constants[key]

    def input(self, name: str) -> fx.Node:
        """An input of the graph."""
        return self.graph.placeholder(name)

    def order_inputs(self, inputs: list[fx.Node]) -> None:
        """Puts the inputs before everything else, in this order."""
        for node in reversed(inputs):
            next(iter(self.graph.nodes)).prepend(node)

    def reshape(self, node: fx.Node, *shape: int) -> fx.Node:
        """The same elements in another shape."""
        while node.target is torch.ops.aten.reshape.default:
            node = node.args[0]  # type: ignore[assignment]
        return self.call(torch.ops.aten.reshape.default, node, list(shape))

    def take(self, node: fx.Node, index: fx.Node) -> fx.Node:
        """The rows of a tensor [R, C] at an index of any shape, [*index, C]; becomes Gather."""
        return self.call(torch.ops.aten.embedding.default, node, index)

    def keep(self, rows: fx.Node, which: fx.Node) -> fx.Node:
        """The rows [n, ...] that a bool [n] names; becomes Compress."""
        return self.call(torch.ops.aten.index.Tensor, rows, [which])

    def put(self, node: fx.Node, index: fx.Node, rows: fx.Node) -> fx.Node:
        """The tensor with the rows at an index [m] replaced; becomes ScatterND."""
        return self.call(torch.ops.aten.index_copy.default, node, 0, index, rows)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else (type(value), value)
