"""Helpers on `torch.fx.GraphModule`, and the one typed record that skipfx keeps on a node.

A stream graph has one signature at every stage of the compiler:

    graph(*frames, *states, refresh) -> ((output, ...), (next state, ...))

so that it can be run frame by frame in plain PyTorch after every pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from skipfx.errors import InternalError

Role = Literal["frame", "state", "refresh", "parameter", "local", "island", "gate", "output", "unknown"]
Pair = tuple[int, int]
Reader = tuple[Pair, Pair, Pair, Pair, Pair]
KEY = "skipfx"


@dataclass(frozen=True)
class Decision:
    """A convolution that a learned mask decides on.

    Attributes:
        macs: multiply-accumulates for one position.
        size: height and width of its output.
        readers: how the mask's positions reach it: for each operator between, from the mask upwards, the size of its
            input, and its kernel, stride, padding and dilation.
    """

    macs: int
    size: Pair
    readers: tuple[Reader, ...] = ()

    @property
    def total(self) -> int:
        """Multiply-accumulates of a dense frame."""
        return self.macs * self.size[0] * self.size[1]


@dataclass
class Record:
    """What skipfx knows of a node.

    Attributes:
        role: what the node is to the compiler; "gate" is a node that skipfx put in.
        layer: dotted name of the module it came from, "" for the model itself.
        reason: why a node is an island, in words for the user.
        held: whether its value is materialised; a local node that is not held is computed inside its one consumer.
        scale: RMS of the value on the example frame.
        decides: for the mask of a learned gate, the convolutions that it decides on.
        cost: for such a mask, the multiply-accumulates of its own on a dense frame.
    """

    role: Role = "unknown"
    layer: str = ""
    reason: str = ""
    held: bool = False
    scale: float = 0.0
    decides: tuple[Decision, ...] = ()
    cost: int = 0


def record(node: fx.Node) -> Record:
    """The node's record; made on first use."""
    found: Record = node.meta.setdefault(KEY, Record())
    return found


def layer(node: fx.Node) -> str:
    """Dotted name of the module that a captured node came from, "" for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def frames(graph: fx.Graph) -> list[fx.Node]:
    """The placeholders that are frames, in order."""
    return [node for node in graph.find_nodes(op="placeholder") if record(node).role == "frame"]


def states(graph: fx.Graph) -> list[fx.Node]:
    """The placeholders that are states, in order."""
    return [node for node in graph.find_nodes(op="placeholder") if record(node).role == "state"]


def refresh(graph: fx.Graph) -> fx.Node:
    """The placeholder that opens every gate."""
    found: fx.Node = next(node for node in graph.find_nodes(op="placeholder") if record(node).role == "refresh")
    return found


def outputs(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The values that the model returns, flattened."""
    return tuple(graph.output_node().args[0][0])  # type: ignore[index, arg-type]


def next_states(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The values of the states after the frame, in the order of `states`."""
    return tuple(graph.output_node().args[0][1])  # type: ignore[index, arg-type]


def set_outputs(graph: fx.Graph, values: tuple[fx.Node, ...], following: tuple[fx.Node, ...]) -> None:
    """Replaces what the graph returns."""
    graph.output_node().args = ((values, following),)


def value(node: fx.Node) -> Tensor:
    """The fake tensor that stands for the node's value: shape and dtype."""
    found = node.meta.get("val")
    if not isinstance(found, Tensor):
        raise InternalError(f"{node.format_node()} carries no tensor metadata")
    return found


def is_map(node: Any) -> bool:
    """Whether the node is a float feature map [1, C, H, W]."""
    found = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(found, Tensor) and found.dim() == 4 and found.shape[0] == 1 and found.dtype == torch.float32


def insert(
    graph: fx.Graph, target: Callable[..., Any], args: tuple[Any, ...], like: fx.Node, role: Role = "gate"
) -> fx.Node:
    """Inserts a call at the graph's insertion point, with the metadata of its value and the layer of `like`."""
    node = graph.call_function(target, args)
    values = fx.node.map_arg(args, lambda arg: arg.meta["val"])
    node.meta["val"] = target(*values)
    node.meta[KEY] = Record(role=role, layer=record(like).layer)
    return node


def add_state(graph: fx.Graph, like: fx.Node, following: fx.Node | None = None) -> fx.Node:
    """Adds a state of the shape of `like`; `following` is its value after the frame (`like` itself by default)."""
    with graph.inserting_before(refresh(graph)):
        node = graph.placeholder(f"state_{len(states(graph)):03d}")
    node.meta["val"] = value(like)
    node.meta[KEY] = Record(role="state", layer=record(like).layer)
    set_outputs(graph, outputs(graph), (*next_states(graph), like if following is None else following))
    return node


def set_following(graph: fx.Graph, state: fx.Node, node: fx.Node) -> None:
    """Makes `node` the value of the state after the frame."""
    pairs = zip(states(graph), next_states(graph), strict=True)
    set_outputs(graph, outputs(graph), tuple(node if s is state else following for s, following in pairs))


def parameter(gm: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor behind a parameter node, or None where the argument is none."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = gm
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) else None


def add_parameter(gm: fx.GraphModule, name: str, tensor: Tensor, like: fx.Node) -> fx.Node:
    """Registers a tensor under a fresh name and inserts a node that reads it.

    What was computed from trainable parameters becomes a trainable parameter of its own, everything else a buffer.
    """
    name = name.replace(".", "_")
    while hasattr(gm, name):
        name += "_"
    if tensor.requires_grad:
        gm.register_parameter(name, nn.Parameter(tensor.detach()))
    else:
        gm.register_buffer(name, tensor)
    node = gm.graph.get_attr(name)
    fake = value(like)
    node.meta["val"] = fake.new_empty(tensor.shape, dtype=tensor.dtype)
    node.meta[KEY] = Record(role="parameter", layer=record(like).layer)
    return node


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen call by name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((arg.name for arg in schema.arguments), node.args, strict=False))
    return {arg.name: given.get(arg.name, node.kwargs.get(arg.name, arg.default_value)) for arg in schema.arguments}


def text(gm: fx.GraphModule) -> str:
    """The graph as text, one node a line with its shape and role; golden tests compare it."""
    lines = []
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            continue
        found = node.meta.get("val")
        shape = list(found.shape) if isinstance(found, Tensor) else ""
        held = " held" if record(node).held else ""
        target = "" if node.op in ("placeholder", "output") else f" {getattr(node.target, '__name__', node.target)}"
        arguments_text = "" if node.op == "placeholder" else f" {fx.node.map_arg(node.args, lambda arg: arg)}"
        lines.append(f"{node.name}: {record(node).role}{held} {shape}{target}{arguments_text}".replace("  ", " "))
    return "\n".join(lines) + "\n"


def matches(layer: str, pattern: str) -> bool:
    """Whether a shell-style pattern names the layer or a module that holds it."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))
