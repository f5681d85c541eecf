"""The plan: what lowering hands to the runtime. Plain data, no PyTorch and no TVM.

A plan lists the buffers of a stream and the steps of a frame. The runtime lays the buffers out in memory, packs the
weights and turns every step into a row that a compiled kernel reads (`skipfx.runtime.assemble`).
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipfx.expr import Expr

Pair = tuple[int, int]
Place = tuple[int, int, int]
Core = Literal[
    "none", "conv", "depthwise", "max_pool", "avg_pool", "resize", "move",
    "sum", "max", "min", "argmax", "norm", "softmax", "log_softmax",
]  # fmt: skip
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Buffer:
    """Feature maps that lie together in memory: [height, width, channels] with a border of zeros around the picture.

    Attributes:
        border: rows and columns of zeros that windows may read.
    """

    height: int
    width: int
    channels: int
    border: int


@dataclass(frozen=True)
class View:
    """A run of channels of a buffer.

    Attributes:
        buffer: index of the buffer.
        channel: the first channel.
        channels: how many.
        maps: the change maps that cover it, one per value that was written into it.
    """

    buffer: int
    channel: int
    channels: int
    maps: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Change maps whose changes make an output position active, and how positions correspond.

    Attributes:
        maps: the change maps.
        kind: "window": rows o * stride - padding + k * dilation. "taps": the listed rows and columns.
            "whole": any change makes every position active.
    """

    maps: tuple[int, ...]
    kind: Literal["window", "taps", "whole"] = "window"
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    rows: tuple[tuple[int, ...], ...] = ()
    columns: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Gate:
    """The hold test at the end of a step: written where N(new - held) > threshold.

    Attributes:
        threshold: in the units of the value; 0 lets every difference through, a negative one everything computed.
        norm: N over the channels.
        dilation: odd width of the neighbourhood that a changed pixel marks (frames only).
    """

    threshold: float = 0.0
    norm: Literal["rms", "max"] = "max"
    dilation: int = 1


@dataclass(frozen=True)
class Keep:
    """A part of the picture.

    Attributes:
        mask: a map of one channel, 1.0 or 0.0.
        inside: where it is 1.0, rather than where it is 0.0.
    """

    mask: View
    inside: bool


@dataclass(frozen=True)
class Ingest:
    """Takes an array [1, C, H, W] into a view where it moved.

    Attributes:
        array: index among the arrays handed to the segment.
        is_frame: a frame, which must be finite, rather than the output of an island.
    """

    array: int
    is_frame: bool
    out: View
    map: int
    gate: Gate


@dataclass(frozen=True)
class Compute:
    """A core and the pointwise arithmetic behind it, at the active positions.

    Attributes:
        name: layer it came from.
        core: what reads the window; its value is ("input", 0) of `expr`, the operands follow.
        source, window: what the core reads, if there is one, and where.
        operands: maps read at the output's position; a constant stands as its values [H, W, C].
        expr: over the core's value and the operands.
        channels: per-channel parameters [C] of `expr`.
        weight, bias: of the core, [C_out, C_in / groups, kh, kw] and [C_out].
        taps: for "resize": rows and columns, each [lines, taps] of weights; the indices are in `active`.
        tables: for "move": (row, column, channel) of the source per output row, column and channel, which add up; None
            as row or column for the fill.
        number: of "move" the fill, of "sum" the factor, of "norm" the summand of the variance.
        active: what makes a position active.
        keep: where a position may be active at all.
        size: height and width of the output.
        macs: multiply-accumulates per position.
    """

    name: str
    core: Core
    source: View | None
    operands: tuple[View | Floats, ...]
    expr: Expr
    channels: tuple[Floats, ...]
    out: View
    map: int
    gate: Gate
    active: tuple[Source, ...]
    size: Pair
    macs: int = 0
    weight: Floats | None = None
    bias: Floats | None = None
    groups: int = 1
    window: Source | None = None
    keep: Keep | None = None
    taps: tuple[Floats, ...] = ()
    count_pad: bool = True
    tables: tuple[tuple[Place | None, ...], ...] = ()
    number: float = 0.0


@dataclass(frozen=True)
class Weigh:
    """The first half of a gate's score: at each position, a number for every tap of the window that may read it.

    out[t] = sum over the channels of weight[t] |source - reference|; the whole of a score is a sum of such numbers.

    Attributes:
        name: of the gate.
        source: what the gated convolution reads.
        reference: of the same size: what it is compared with.
        out: with a channel for every tap.
        weight: [1, C, kh, kw].
        active: what makes a position active.
        size: height and width of the source.
    """

    name: str
    source: View
    reference: View
    out: View
    weight: Floats
    active: tuple[Source, ...]
    size: Pair

    @property
    def macs(self) -> int:
        """Multiply-accumulates per position."""
        return self.weight.size


@dataclass(frozen=True)
class Score:
    """The second half: out = operand + sign x sum over the window of the numbers that belong to its taps.

    Attributes:
        name: of the gate.
        source, window: what `Weigh` wrote, and where the taps read it.
        operand: of one channel; sign: 1 or -1.
        out: of one channel; map: the change map that marks what was computed.
        active: what makes a position active.
        size: height and width of the output.
    """

    name: str
    source: View
    window: Source
    operand: View
    sign: int
    out: View
    map: int
    active: tuple[Source, ...]
    size: Pair


@dataclass(frozen=True)
class Follow:
    """Moves a reference to what it is compared with; the numbers of `Weigh` become 0 there.

    Attributes:
        name: of the gate.
        source: what is copied.
        out: the reference; map: marks where a number was not 0.
        weighed: those numbers.
        active: what makes a position active.
        size: height and width of the source.
    """

    name: str
    source: View
    out: View
    map: int
    weighed: View
    active: tuple[Source, ...]
    size: Pair


@dataclass(frozen=True)
class Open:
    """Opens the blocks of a map of scores in which a score that was just computed stands and any exceeds a limit.

    Attributes:
        name: of the gate.
        scores: of one channel; they become 0 where a block opens.
        map: the change map that marks the open positions.
        limit: what a score must exceed, strictly.
        block: side of the blocks.
    """

    name: str
    scores: View
    map: int
    limit: float
    block: int


@dataclass(frozen=True)
class Emit:
    """Writes the changed positions of a view into an array [1, C, H, W] of the segment."""

    array: int
    view: View


@dataclass(frozen=True)
class Room:
    """Memory of a stream for a value that is no map; its elements lie row by row.

    Attributes:
        index: among the plan's rooms.
        dtype: of the elements, as NumPy names it.
    """

    index: int
    dtype: str


@dataclass(frozen=True, eq=False)
class Dense:
    """A kernel of a dense island, on a GPU.

    Attributes:
        kernel: what the target makes code of.
        tensors: what it writes, then what it reads; constants stand as their elements.
        maps: the change maps of all that its island reads: where one of them has a change, it runs.
    """

    kernel: Hashable
    tensors: tuple[View | Room | NDArray[Any], ...]
    maps: tuple[int, ...]


@dataclass(frozen=True)
class Give:
    """Brings an array of the segment up to date with a room, where one of some change maps has a change."""

    array: int
    room: Room
    maps: tuple[int, ...]


GateStep = Weigh | Score | Open | Follow
Named = Compute | GateStep
Step = Ingest | Named | Emit | Dense | Give


@dataclass(frozen=True)
class Island:
    """A dense part, run by ONNX Runtime when one of its inputs changed.

    Attributes:
        name: for reports.
        onnx: the serialised model.
        inputs: where each input comes from: ("array", i), an array the segment emitted, or ("value", name), the output
            of an earlier island.
        outputs: names of the values it makes.
    """

    name: str
    onnx: bytes
    inputs: tuple[tuple[str, int | str], ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """Steps that run in one native call, then at most one island.

    Attributes:
        arrays_in: the arrays taken in: ("frame", i) or ("value", name).
        arrays_out: shapes of the arrays it emits or gives.
        dtypes: of these arrays, as NumPy names them.
    """

    steps: tuple[Step, ...]
    arrays_in: tuple[tuple[str, int | str], ...]
    arrays_out: tuple[tuple[int, ...], ...]
    island: Island | None = None
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A whole network.

    Attributes:
        frames: shapes [1, C, H, W] of the frames.
        maps: buffer of each change map.
        outputs: where each output of the model comes from: (segment, array) or the name of an island's value.
        rooms: floats of each.
    """

    frames: tuple[tuple[int, ...], ...]
    buffers: tuple[Buffer, ...]
    maps: tuple[int, ...]
    segments: tuple[Segment, ...]
    outputs: tuple[tuple[int, int] | str, ...] = field(default=())
    rooms: tuple[int, ...] = ()
