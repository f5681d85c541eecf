"""What a GPU launches for a call: one or two kernels for every row of its table. No compiler is imported."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipfx.runtime.image import Call, Image
from skipfx.runtime.kernels.table import Column, Op

if TYPE_CHECKING:
    from skipfx.runtime.engine import Program

Pairs = tuple[tuple[int, int], ...]
K = Column
NAMES = {
    Op.CLEAR: ("clear", "begin"),
    Op.COMPARE: ("compare",),
    Op.DILATE: ("dilate",),
    Op.DECIDE: ("decide",),
    Op.COMMIT: ("commit",),
    Op.LIST: ("active",),
    Op.KEEP: ("keep",),
    Op.WEIGH: ("weigh",),
    Op.SCORE: ("score",),
    Op.OPEN: ("open_blocks",),
    Op.FOLLOW: ("follow",),
    Op.EMIT: ("emit",),
    Op.GIVE: ("give", "settle"),
}


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: its name.
        row: first number of the row in `c`.
    """

    kernel: str
    row: int


def launches(program: "Program") -> tuple[Launch, ...]:
    """The launches of a step, in order: frames are looked at before anything of the last step is let go."""
    c, found = program.c, []
    for row in sorted(rows(program.parts[0].call), key=lambda row: c[row + K.OP] != Op.COMPARE):
        found += [Launch(name, row) for name in names(c, row)]
    return tuple(found)


def names(c: NDArray[np.int64], row: int) -> tuple[str, ...]:
    """The kernels of a row. What is listed within a mask is listed once, by the row that names the mask."""
    op = Op(int(c[row + K.OP]))
    if op is Op.COMPUTE:
        return (kernel_name(*pair(c, row)),)
    if op is Op.DENSE:
        return (dense_name(int(c[row + K.CORE])),)
    if op is Op.LIST and c[row + K.NUMBERS + K.OP] == Op.KEEP:
        return ()
    return NAMES[op]


def steps(image: Image) -> tuple[str, ...]:
    """The kernels without a core that a plan launches, in alphabetical order."""
    found = [row for call in image.calls for row in rows(call) if Op(int(image.c[row + K.OP])) in NAMES]
    return tuple(sorted({name for row in found for name in names(image.c, row)}))


def pairs(image: Image) -> Pairs:
    """The numbers of core and epilogue that occur together in a plan, each pair once."""
    found = {pair(image.c, row) for call in image.calls for row in rows(call) if image.c[row + K.OP] == Op.COMPUTE}
    return tuple(sorted(found))


def rows(call: Call) -> range:
    """Where the rows of a call begin in `c`."""
    return range(call.begin, call.begin + call.rows * int(K.NUMBERS), int(K.NUMBERS))


def pair(c: NDArray[np.int64], row: int) -> tuple[int, int]:
    """The numbers of the core (-1: none) and the epilogue of a row that computes."""
    return int(c[row + K.CORE]), int(c[row + K.EPILOGUE])


def kernel_name(core: int, epilogue: int) -> str:
    """The kernel for a core and an epilogue."""
    return f"compute_{core}_{epilogue}" if core >= 0 else f"compute_{epilogue}"


def dense_name(number: int) -> str:
    """A kernel of a dense island."""
    return f"dense_{number}"
