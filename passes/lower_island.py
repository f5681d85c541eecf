"""Lowers the dense islands of one level to an ONNX model, which the runtime runs when an input changed."""

from collections.abc import Callable, Sequence

import torch
from torch import fx

from skipfx import graph as g
from skipfx.errors import CompileError
from skipfx.plan import Island
from skipfx.to_onnx import to_onnx

InputKey = tuple[str, int | str]


def island(
    gm: fx.GraphModule,
    nodes: Sequence[fx.Node],
    name: str,
    key: Callable[[fx.Node], InputKey],
    constants: Sequence[fx.Node] = (),
) -> Island:
    """Cuts the nodes out of the graph and exports them.

    Args:
        gm: the stream graph.
        nodes: the island's operators, in order.
        name: for messages.
        key: says where the runtime finds an input.
        constants: parameters that are outputs of the model, which the island hands out too.

    Raises:
        CompileError: the ONNX exporter cannot take an operator; the message names the operators.
    """
    members = set(nodes)
    inputs: list[fx.Node] = []
    for node in nodes:
        for source in node.all_input_nodes:
            if source not in members and source.op != "get_attr" and source not in inputs:
                inputs.append(source)
    outputs = [
        n for n in nodes if isinstance(n.meta.get("val"), torch.Tensor) and any(u not in members for u in n.users)
    ]
    outputs += dict.fromkeys(constants)
    module = _extract(gm, nodes, inputs, outputs)
    model = _export(module, tuple(torch.zeros(g.value(n).shape, dtype=g.value(n).dtype) for n in inputs), nodes)
    return Island(name, model, tuple(key(node) for node in inputs), tuple(node.name for node in outputs))


def _extract(
    gm: fx.GraphModule, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"x{index}") for index, node in enumerate(inputs)}
    for node in nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in copies:
                copies[source] = graph.get_attr(str(source.target))
        copies[node] = graph.node_copy(node, copies.__getitem__)
    for node in outputs:
        if node not in copies:
            copies[node] = graph.get_attr(str(node.target))
    graph.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(gm, graph)


def _export(module: fx.GraphModule, example: tuple[torch.Tensor, ...], nodes: Sequence[fx.Node]) -> bytes:
    try:
        return to_onnx(module, example)
    except Exception as error:
        operators = ", ".join(sorted({str(node.target) for node in nodes}))
        raise CompileError(
            f"a dense island cannot be exported to ONNX ({operators}): {error}\nIf it is the end of the model, cut the "
            "model before it with until=... (--until); skipfx inspect says where"
        ) from error
