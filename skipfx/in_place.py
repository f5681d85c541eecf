"""Which states of an exported model may be one buffer, as input and as output.

A runtime that is given one buffer for both writes the new state over the old one. That is right if

1. the state's output is written by ScatterND or ScatterElements into the state's input, or by Where, position by
   position; all leave alone or overwrite in place what they read of it;
2. everything else that reads the input comes before that write: it is an ancestor of the writing node, so no runtime
   can put it later. The same holds for whatever reads it through operators that only move values about: some of them
   are views of the same memory, and optimisers move the others (ONNX Runtime pulls a Transpose behind the Sub that
   reads it).

A reader of the old state that is no ancestor may run after the write, and gets the new state without an error.

An output that is a view of a state's output may be that buffer, too: it is written after the state, with what is there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
MOVERS = (*VIEWS, "Transpose", "Slice", "Split", "Pad", "Cast", "Concat", "Expand", "Tile", "Gather", "GatherND",
          "SpaceToDepth", "DepthToSpace")  # fmt: skip
WRITERS = {"ScatterND": (0,), "ScatterElements": (0,), "Where": (1, 2)}  # and which inputs may be the old state


def safe_states(model: Any, pairs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bool]:
    """For each (input, output) pair of states of an ONNX model, whether the two may share a buffer."""
    nodes = list(model.graph.node)
    maker = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    return {pair: _is_safe(*pair, maker, readers, outputs) for pair in pairs}


def same_bytes(model: Any, name: str, states: Sequence[str]) -> int | None:
    """The number of the state whose output holds the same bytes as an output of an ONNX model; None if none does."""
    maker = {output: node for node in model.graph.node for output in node.output}
    while name not in states:
        if name not in maker or maker[name].op_type not in VIEWS:
            return None
        name = maker[name].input[0]
    return states.index(name)


def _is_safe(before: str, after: str, maker: dict[str, Any], readers: dict[str, list[Any]], outputs: set[str]) -> bool:
    writer = maker.get(after)
    if writer is None or before in outputs:
        return False
    allowed = WRITERS.get(writer.op_type, ())
    ancestors = _ancestors(writer, maker)
    memory = [before]
    for name in memory:  # grows
        for node in readers.get(name, []):
            if node is writer:
                if any(source == name and place not in allowed for place, source in enumerate(node.input)):
                    return False
            elif id(node) not in ancestors:
                return False
            elif node.op_type in MOVERS:
                memory += node.output
    return True


def _ancestors(node: Any, maker: dict[str, Any]) -> set[int]:
    found: set[int] = set()
    waiting = [node]
    while waiting:
        for name in waiting.pop().input:
            source = maker.get(name)
            if source is not None and id(source) not in found:
                found.add(id(source))
                waiting.append(source)
    return found
