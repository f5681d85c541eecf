"""What becomes of a model: which operators turn sparse, which stay dense and why, and what that is worth."""

from io import StringIO

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

WIDTH = 118
FULL_COST = 1.25  # time of a kernel at all positions, over a dense one: what a refresh costs in benchmarks/, rounded
ACTIVITIES = (0.03, 0.1, 0.3)
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
        state_bytes: of its value, if a stream keeps it.
        growth: rows or columns by which a changed region of its input spreads (the larger of the two), in positions of
            that input.
        reach: all growth on the way from the frame to here, in pixels of the frame; not through islands.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    held: bool
    state_bytes: int
    growth: int
    reach: int


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
        break_even: share of the sparse region's work up to which a frame costs less than a dense one; a kernel at all
            positions is taken to cost FULL_COST times a dense one.
        remaining: (share of the sparse region that is active, work that is left of a dense frame), counting islands as
            run and kernels at FULL_COST.
        ends: modules or nodes behind which all is dense: `until` may cut there.
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
    break_even: float
    remaining: tuple[tuple[float, float], ...]
    ends: tuple[str, ...]
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
            "work     " + ", ".join(f"{left:.0%} of a dense frame at {a:.0%} active" for a, left in self.remaining),
            f"         cheaper than dense up to {self.break_even:.0%} active",
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
        if self.ends:
            lines.append(f"end      all is dense behind {', '.join(self.ends)}: --until leaves it to code of your own")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The summary, a table of the sparse region, and one of the gates that learn."""
        columns = ("layer", "operator", "output", "MACs", "state", "growth", "reach")
        table = Table(*columns, box=None, pad_edge=False)
        for layer in self.layers:
            size = " x ".join(map(str, layer.shape[1:]))
            state = f"{layer.state_bytes / 2**10:.0f} KiB" if layer.held else ""
            spread = (f"+{layer.growth}", f"+{layer.reach} px")
            table.add_row(layer.name, layer.op, size, _count(layer.macs), state, *spread)
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


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
