"""What assembling makes of a plan: sizes, packed constants, calls; and where positions of a buffer lie."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipfx.plan import Buffer, Segment
from skipfx.runtime.kernels.table import LANES, CoreSpec

if TYPE_CHECKING:
    from skipfx.runtime.engine import Part

EpilogueSpec = tuple[Any, bool, tuple[bool, ...], tuple[bool, ...]]  # arguments of `kernels.epilogue.value_of`


@dataclass(frozen=True)
class LayerCell:
    """Where a frame leaves what it computed of a layer.

    Attributes:
        name: of the layer.
        list, counts: first cells of its active list in `q`, and of the counts in `n`.
        macs: per active position.
        height, width: of its output.
    """

    name: str
    list: int
    counts: int
    macs: int
    height: int
    width: int

    @property
    def positions(self) -> int:
        """All positions of the output."""
        return self.height * self.width


@dataclass(frozen=True)
class Call:
    """One call of `step`.

    Attributes:
        begin: first number of its rows in `c`.
        takes, computes, gives: how many take in, compute, give out, in this order.
        f_size, o_size: floats of the arrays taken in and given out.
        changed: cells of `n` that count the changes of the emitted arrays.
        channels_last: numbers of the emitted arrays that lie as [H, W, C] in memory on a CPU.
    """

    begin: int
    takes: int
    computes: int
    gives: int
    f_size: int
    o_size: int
    changed: tuple[int, ...]
    channels_last: tuple[int, ...]

    @property
    def rows(self) -> int:
        """All of them."""
        return self.takes + self.computes + self.gives


class Fused(NamedTuple):
    """A core and an epilogue in one kernel.

    Attributes:
        core, epilogue: their numbers.
        cut: the last vector of channels is not whole, and nothing may be written behind it.
        nontemporal: what it writes is stored past the caches.
    """

    core: int
    epilogue: int
    cut: bool
    nontemporal: bool


class Alone(NamedTuple):
    """An epilogue that a refresh runs by itself.

    Attributes:
        epilogue: its number.
        nontemporal: what it writes is stored past the caches.
    """

    epilogue: int
    nontemporal: bool


class Held(NamedTuple):
    """An epilogue with the hold test behind it.

    Attributes:
        epilogue: its number.
        channels, rms: arguments of `kernels.hold.hold`.
    """

    epilogue: int
    channels: int
    rms: bool


@dataclass(frozen=True)
class Image:
    """An assembled plan.

    Attributes:
        sizes: elements of a, m, s, q, n; of a and s without what the tasks need.
        per_task: elements of a and s that each task needs on top, at their ends.
        held_bytes: bytes of the values that are held, without borders and bookkeeping.
        w, c: the shared constants.
        cores, epilogues: what the compiled module must hold,
        held: the ends of sparse frames on a CPU,
        fused: cores and epilogues that are one kernel too, for a refresh on a CPU,
        alone: epilogues that a refresh on a CPU runs by themselves,
        dense: and the kernels of dense islands, on a GPU.
    """

    sizes: tuple[int, int, int, int, int]
    per_task: tuple[int, int]
    held_bytes: int
    w: NDArray[np.float32]
    c: NDArray[np.int64]
    calls: tuple[Call, ...]
    layers: tuple[LayerCell, ...]
    cores: tuple[CoreSpec, ...]
    epilogues: tuple[EpilogueSpec, ...]
    held: tuple[Held, ...]
    fused: tuple[Fused, ...]
    alone: tuple[Alone, ...]
    dense: tuple[Any, ...]


def arrays(part: "Segment | Part") -> list[tuple[tuple[int, ...], str]]:
    """Shape and type of what a segment or part of a program gives out."""
    dtypes = part.dtypes or ("float32",) * len(part.arrays_out)
    return list(zip(part.arrays_out, dtypes, strict=True))


def floats(shape: tuple[int, ...], dtype: str) -> int:
    """Floats that an array takes in memory; a whole number of elements of 8 bytes where they are no floats."""
    size = math.prod(shape)
    return size if dtype == "float32" else -(-size * np.dtype(dtype).itemsize // 8) * 2


def pixel(buffer: Buffer) -> int:
    """Floats from one position to the next: whole vectors where that costs at most a sixteenth of the memory."""
    spare = -buffer.channels % LANES
    return buffer.channels + (spare if spare * 16 <= buffer.channels else 0)


def pitch(buffer: Buffer) -> int:
    """Positions from one row to the next."""
    return buffer.width + buffer.border


def origin(buffer: Buffer) -> int:
    """The position of the picture's first pixel."""
    return buffer.border * pitch(buffer) + buffer.border


def positions(buffer: Buffer) -> int:
    """All positions, border included."""
    return (buffer.height + 2 * buffer.border) * pitch(buffer) + buffer.border
