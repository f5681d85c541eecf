"""Functions of one map as a canonical graph."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from skipfx import graph as g
from skipfx.capture import capture, stream_graph
from skipfx.passes import pipeline
from skipfx.passes.base import run_passes

Function = Callable[[Tensor, Tensor], Tensor]


class Applied(nn.Module):
    """The given functions, all on the same map, one output each; so one export serves many tests."""

    def __init__(self, functions: list[Function]) -> None:
        super().__init__()
        self.functions = functions
        self.parameter = nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(x)
        return tuple(function(x, self.parameter) for function in self.functions)


def applied(functions: dict[str, Function]) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """The canonical graph of some functions, and the node that each ends in."""
    gm = stream_graph(capture(Applied(list(functions.values())), (torch.rand(1, 3, 6, 7),)))
    run_passes(gm, pipeline.canonical())
    return gm, dict(zip(functions, g.outputs(gm.graph), strict=True))
