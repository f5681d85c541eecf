"""The hold gate: a value stays what it was until it has moved by more than its threshold.

    y_t[p] = y'_t[p]   if N(y'_t[p] - y_{t-1}[p]) > tau     (then p is changed)
             y_{t-1}[p] otherwise

The held value is its own reference, so small changes add up and N(y'_t - y_t) <= tau at every position of every frame.

Threshold 0 needs no gate: a value that differs is let through, one that does not is the same. So it is for resizes and
moves, which repeat held values or put them elsewhere, and for outputs of the model that no operator reads: holding them
saves nothing. A pool is held, since a window's maximum or mean may hardly move where one of its positions did.

A convolution in residual form keeps its sum z beside the held value: the sum takes in every residual, also those of
positions that the gate then holds back.
"""

from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.options import TransformOptions
from skipfx.passes.fuse_chains import is_inside
from skipfx.passes.rules import local
from skipfx.passes.to_residual import residuals

UNHELD_FAMILIES = ("resize", "move")


def insert_hold(gm: fx.GraphModule, options: TransformOptions, input_threshold: float) -> bool:
    """Holds the frames, every materialised value and every island output that the sparse region reads."""
    gate = options.hold
    assert gate is not None
    modified = False
    sums = {conv.update: conv.former for conv in residuals(gm.graph)}
    layers = {node: _layers(gm, node) for node in gm.graph.nodes}
    for node, names in layers.items():
        if g.record(node).role == "frame" and g.is_map(node):
            threshold, norm, dilation = input_threshold, "max", gate.dilation
        else:
            threshold, norm, dilation = _threshold(gm, node, names, options), gate.norm, 1
        if threshold > 0:
            _hold(gm.graph, node, threshold, norm, dilation)
            modified = True
            if node in sums:
                g.set_following(gm.graph, sums[node], node)
    return modified


def _layers(gm: fx.GraphModule, node: fx.Node) -> set[str]:
    """Names of the modules that compute a value: its own and, through the gates on them, those of what it swallowed."""
    found = {g.record(node).layer}
    for source in node.all_input_nodes:
        record = g.record(source)
        if (record.role == "gate" and not record.held) or is_inside(gm, source):
            found |= _layers(gm, source)
    return found


def _threshold(gm: fx.GraphModule, node: fx.Node, layers: set[str], options: TransformOptions) -> float:
    """The threshold tau of a node that is not a frame, in the units of its value; 0 where it is not held."""
    found = g.record(node)
    readers = [user for user in node.users if user.op != "output"]
    if not readers or not g.is_map(node):
        return 0.0
    if found.role == "island":
        if all(g.record(user).role == "island" for user in readers):
            return 0.0
    elif not found.held or (found.role == "local" and local(gm, node).family in UNHELD_FAMILIES):
        return 0.0
    assert options.hold is not None
    share = options.hold.threshold
    for pattern, override in options.thresholds.items():
        if any(g.matches(layer, pattern) for layer in layers):
            share = override
    return share * found.scale


def _hold(graph: fx.Graph, node: fx.Node, threshold: float, norm: str, dilation: int) -> None:
    users = list(node.users)
    former = g.add_state(graph, node)
    after = node.next if node.op != "placeholder" else next(n for n in graph.nodes if n.op == "call_function")
    with graph.inserting_before(after):
        mask = g.insert(graph, ops.changed, (node, former, threshold, norm), node)
        if dilation > 1:
            mask = g.insert(graph, ops.dilate, (mask, dilation), node)
        held = g.insert(graph, ops.select, (mask, node, former, g.refresh(graph)), node)
    for user in (*users, graph.output_node()):
        user.replace_input_with(node, held)
