"""What becomes of a model: which operators turn sparse, which stay dense and why, and what that is worth."""

from collections.abc import Sequence
from io import StringIO

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from skipfx import graph as g
from skipfx import ops
from skipfx.options import TransformOptions
from skipfx.passes.rules import Local, local
from skipfx.recipe import Recipe

WIDTH = 110
NAMED_LAYERS = 3


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Layer(_Part):
    """A local operator, which is computed only where its inputs changed.

    Attributes:
        name: dotted name of its module, or its name in the graph.
        op: the ATen operator.
        shape: of its output, [1, C, H, W].
        macs: multiply-accumulates of a dense frame.
        held: whether its value is materialised; if not, it is computed inside its one consumer.
        growth: rows or columns by which a changed region of its input spreads (the larger of the two), in positions of
            that input.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    held: bool
    growth: int


class Island(_Part):
    """Operators that stay dense for one and the same reason.

    Attributes:
        reason: why, in words.
        count: how many operators.
        macs: multiply-accumulates of a dense frame, where PyTorch knows a formula.
        layers: the first few modules they came from.
    """

    reason: str
    count: int
    macs: int
    layers: tuple[str, ...]


class LearnedGate(_Part):
    """A gate that is trained, and what it decides on.

    Attributes:
        name: dotted name of the module that the convolution or the residual block is from, or the gate's in the graph.
        convs: how many convolutions it decides on.
        macs: their multiply-accumulates on a dense frame.
        own_macs: those of the gate itself.
    """

    name: str
    convs: int
    macs: int
    own_macs: int


class Report(_Part):
    """A model, transformed.

    Attributes:
        notes: what capturing changed in the model.
        gate: the gate and its options, in words.
        total_macs: multiply-accumulates of a dense frame.
        sparse_macs: those of the sparse region.
        sparse_convs: convolutions in the sparse region.
        states: tensors that one stream keeps in the PyTorch graph.
        state_bytes: their size.
        layers: the sparse region, in the order of computation.
        islands: the rest, by reason, the most work first.
        gates: those that learn, in the order of computation.
    """

    notes: tuple[str, ...] = ()
    gate: str
    total_macs: int
    sparse_macs: int
    sparse_convs: int
    states: int
    state_bytes: int
    layers: tuple[Layer, ...]
    islands: tuple[Island, ...]
    gates: tuple[LearnedGate, ...] = ()

    @property
    def sparse_share(self) -> float:
        """Share of the multiply-accumulates that can be skipped, 0 to 1."""
        return self.sparse_macs / max(1, self.total_macs)

    def summary(self) -> str:
        """What fits on one screen: the gate, the sparse share, the states, and why islands are islands."""
        lines = [
            *(f"note     {note}" for note in self.notes),
            f"gate     {self.gate}",
            f"sparse   {self.sparse_convs} convolutions, {len(self.layers)} operators, "
            f"{_count(self.sparse_macs)} of {_count(self.total_macs)} MACs ({self.sparse_share:.1%})",
            f"state    {self.states} tensors, {self.state_bytes / 2**20:.1f} MiB per stream",
        ]
        if self.gates:
            decided, own = sum(gate.macs for gate in self.gates), sum(gate.own_macs for gate in self.gates)
            lines.append(
                f"learned  {len(self.gates)} gates decide on {_count(decided)} MACs ({decided / self.total_macs:.1%}) "
                f"and cost {_count(own)} ({own / self.total_macs:.1%})"
            )
        for island in self.islands:
            names = ", ".join(island.layers) + (", ..." if island.count > len(island.layers) else "")
            lines.append(f"dense    {island.count} x {island.reason} ({_count(island.macs)} MACs): {names}")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The summary, a table of the sparse region, and one of the gates that learn."""
        table = Table("layer", "operator", "output", "MACs", "held", "growth", box=None, pad_edge=False)
        for layer in self.layers:
            size = " x ".join(map(str, layer.shape[1:]))
            held = "yes" if layer.held else "no"
            table.add_row(layer.name, layer.op, size, _count(layer.macs), held, f"+{layer.growth}")
        gates = Table(
            "learned gate", "decides on", "MACs", "of all", "its own MACs", "of all", box=None, pad_edge=False
        )
        for gate in self.gates:
            shares = [f"{macs / self.total_macs:.1%}" for macs in (gate.macs, gate.own_macs)]
            what = f"{gate.convs} convolution{'s' if gate.convs > 1 else ''}"
            gates.add_row(gate.name, what, _count(gate.macs), shares[0], _count(gate.own_macs), shares[1])
        return "\n".join([self.summary(), *_text(table), *(_text(gates) if self.gates else ())])


def _text(table: Table) -> list[str]:
    """An empty line, and the table."""
    target = StringIO()
    Console(file=target, width=WIDTH, color_system=None).print(table)
    return ["", *(line.rstrip() for line in target.getvalue().splitlines())]


def survey(gm: fx.GraphModule) -> tuple[tuple[Layer, ...], tuple[Island, ...]]:
    """Reads the sparse region and the islands off a classified graph."""
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    layers = tuple(_layer(node, local(gm, node)) for node in calls if g.record(node).role == "local")
    reasons: dict[str, list[fx.Node]] = {}
    for node in calls:
        if g.record(node).role == "island":
            reasons.setdefault(g.record(node).reason, []).append(node)
    islands = [_island(reason, nodes) for reason, nodes in reasons.items()]
    return layers, tuple(sorted(islands, key=lambda island: -island.macs))


def make_report(layers: Sequence[Layer], islands: Sequence[Island], stream: fx.GraphModule, recipe: Recipe) -> Report:
    """Joins a survey with the states of the stream graph that came of it."""
    sparse = sum(layer.macs for layer in layers)
    values = [g.value(node) for node in g.states(stream.graph)]
    return Report(
        notes=recipe.notes,
        gate=_describe(recipe.options),
        total_macs=sparse + sum(island.macs for island in islands),
        sparse_macs=sparse,
        sparse_convs=sum(layer.macs > 0 for layer in layers),
        states=len(values),
        state_bytes=sum(value.numel() * value.element_size() for value in values),
        layers=tuple(layers),
        islands=tuple(islands),
        gates=tuple(map(_gate, stream.graph.find_nodes(op="call_function", target=ops.fires))),
    )


def _gate(node: fx.Node) -> LearnedGate:
    found = g.record(node)
    macs = sum(decision.total for decision in found.decides)
    return LearnedGate(name=found.layer or node.name, convs=len(found.decides), macs=macs, own_macs=found.cost)


def _layer(node: fx.Node, found: Local) -> Layer:
    shape = tuple(g.value(node).shape)
    if found.family in ("resize", "move"):
        growth = max(len(found.attrs[axis][0][0]) for axis in ("rows", "columns")) - 1
    else:
        growth = max((k - 1) * d for k, d in zip(found.window.kernel, found.window.dilation, strict=True))
    return Layer(
        name=g.record(node).layer or node.name,
        op=_operator(node),
        shape=shape,
        macs=found.macs * shape[2] * shape[3],
        held=g.record(node).held,
        growth=growth,
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


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
