"""Reads off a graph what the report says of a model."""

from collections.abc import Sequence

from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from skipfx import graph as g
from skipfx import ops
from skipfx.options import TransformOptions
from skipfx.passes.lower_layout import is_reshape
from skipfx.passes.rules import Local, local
from skipfx.recipe import Recipe
from skipfx.report import ACTIVITIES, FULL_COST, NAMED_LAYERS, Island, Layer, LearnedGate, Report


def survey(gm: fx.GraphModule) -> tuple[tuple[Layer, ...], tuple[Island, ...]]:
    """Reads the sparse region and the islands off a classified graph."""
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    reach: dict[fx.Node, float] = {}
    layers = tuple(_layer(node, local(gm, node), reach) for node in calls if g.record(node).role == "local")
    reasons: dict[str, list[fx.Node]] = {}
    for node in calls:
        if g.record(node).role == "island" and not is_reshape(node):
            reasons.setdefault(g.record(node).reason, []).append(node)
    islands = [_island(reason, nodes) for reason, nodes in reasons.items()]
    return layers, tuple(sorted(islands, key=lambda island: -island.macs))


def dense_ends(gm: fx.GraphModule) -> tuple[str, ...]:
    """The modules or nodes of a classified graph behind which all is dense."""
    tail: set[fx.Node] = set()
    for node in reversed(gm.graph.nodes):
        ends = all(user in tail or user.op == "output" for user in node.users)
        if g.record(node).role == "island" and ends and not is_reshape(node):
            tail.add(node)
    fronts = [node for node in gm.graph.nodes if g.record(node).role == "local" and tail & set(node.users)]
    return tuple(dict.fromkeys(_name_of_value(node) for node in fronts))


def make_report(
    survey: tuple[Sequence[Layer], Sequence[Island]],
    ends: tuple[str, ...],
    stream: fx.GraphModule,
    recipe: Recipe,
) -> Report:
    """Joins a survey with the states of the stream graph that came of it."""
    layers, islands = survey
    sparse = sum(layer.macs for layer in layers)
    total = sparse + sum(island.macs for island in islands)
    values = [g.value(node) for node in g.states(stream.graph)]
    return Report(
        notes=recipe.notes,
        gate=_describe(recipe.options),
        total_macs=total,
        sparse_macs=sparse,
        sparse_convs=sum(layer.macs > 0 for layer in layers),
        states=len(values),
        state_bytes=sum(value.numel() * value.element_size() for value in values),
        break_even=1 / FULL_COST,
        remaining=tuple((a, (a * FULL_COST * sparse + total - sparse) / max(1, total)) for a in ACTIVITIES),
        ends=ends,
        layers=tuple(layers),
        islands=tuple(islands),
        gates=tuple(map(_gate, stream.graph.find_nodes(op="call_function", target=ops.fires))),
    )


def _gate(node: fx.Node) -> LearnedGate:
    found = g.record(node)
    macs = sum(decision.total for decision in found.decides)
    return LearnedGate(name=found.layer or node.name, convs=len(found.decides), macs=macs, own_macs=found.cost)


def _name_of_value(node: fx.Node) -> str:
    """The captured module whose value a node is, or else the captured node."""
    while "nn_module_stack" not in node.meta and node.all_input_nodes:  # a pass put it in
        node = node.all_input_nodes[0]
    layer = g.record(node).layer
    inside = any(g.record(user).layer == layer for user in node.users if user.op != "output")
    return node.name if inside or not layer else layer


def _layer(node: fx.Node, found: Local, reach: dict[fx.Node, float]) -> Layer:
    """The row of a node; notes the reach of its value."""
    shape = tuple(g.value(node).shape)
    if found.family in ("resize", "move"):
        growth = max(len(found.attrs[axis][0][0]) for axis in ("rows", "columns")) - 1
    else:
        growth = max((k - 1) * d for k, d in zip(found.window.kernel, found.window.dilation, strict=True))
    frame = max(g.value(source).shape[2] for source in g.frames(node.graph))
    pixels = frame / g.value(found.inputs[0]).shape[2]  # of the frame, per position of the input
    reach[node] = max(reach.get(source, 0) for source in found.inputs) + growth * pixels
    held = g.record(node).held
    return Layer(
        name=g.record(node).layer or node.name,
        op=_operator(node),
        shape=shape,
        macs=found.macs * shape[2] * shape[3],
        held=held,
        state_bytes=4 * g.value(node).numel() if held else 0,
        growth=growth,
        reach=round(reach[node]),
    )


def _island(reason: str, nodes: list[fx.Node]) -> Island:
    names = dict.fromkeys(g.record(node).layer or node.name for node in nodes)
    return Island(reason=reason, count=len(nodes), macs=sum(map(_macs, nodes)), layers=tuple(names)[:NAMED_LAYERS])


def _macs(node: fx.Node) -> int:
    """Multiply-accumulates of one dense operator, by PyTorch's own formulas on its fake inputs."""
    values = [source.meta.get("val") for source in node.all_input_nodes]
    if not all(isinstance(value, Tensor) and all(isinstance(n, int) for n in value.shape) for value in values):
        return 0  # sizes that depend on the frame
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: arg.meta["val"])
    with FlopCounterMode(display=False) as counter:
        node.target(*args, **kwargs)  # type: ignore[operator]
    return int(counter.get_total_flops()) // 2


def _operator(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").split(".")[0]


def _describe(options: TransformOptions) -> str:
    gate = options.gate.model_dump(exclude={"name", "hold"}, exclude_none=True)
    hold = options.hold.model_dump(exclude={"name"}, exclude_none=True) if options.hold is not None else {}
    words = {**gate, **hold, "block": options.mask_block, "update": options.update}
    return f"{options.gate.name}({', '.join(f'{key}={value}' for key, value in words.items())})"
