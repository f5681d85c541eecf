"""How a convolution on a GPU is cut up, and what its architecture can do."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from skipfx.runtime.kernels.table import LANES, THREADS, Precision, Tile

WARP: Final = 32
WARPS: Final = THREADS // WARP
ROW: Final = 16  # positions of a tensor core's product, which has COLUMN output channels
COLUMN: Final = 8


class Schedule(NamedTuple):
    """The tile of a block, and how it is computed.

    Attributes:
        precision: that operands are rounded to.
        positions, panels: active positions, and vectors of LANES output channels side by side.
        chunks: of CHUNK input channels in shared memory at a time.
        stages: how often shared memory holds so many: while one is multiplied, the next ones are on their way.
        modern: sm_80 and later, which copy asynchronously and multiply 16 channels of 16 bits at once.
    """

    precision: Precision
    positions: int
    panels: int
    chunks: int
    stages: int
    modern: bool

    @property
    def down(self) -> int:
        """Warps below each other over the positions; the others stand side by side over the output channels."""
        return min(WARPS, self.positions // ROW)

    @property
    def rows(self) -> int:
        """Products below each other per warp."""
        return self.positions // ROW // self.down

    @property
    def columns(self) -> int:
        """Products side by side per warp."""
        return self.panels * (LANES // COLUMN) * self.down // WARPS


def is_modern(architecture: str) -> bool:
    """Whether an architecture, "sm_80", has asynchronous copies and all types of tensor cores."""
    return int(architecture.removeprefix("sm_")) >= 80


@cache
def table() -> dict[str, Any]:
    """Precision -> architecture -> class of shapes (`shape_class`) -> positions, panels, chunks, stages."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "schedules.json").read_text())
    return found


def schedule(tile: Tile, architecture: str) -> Schedule:
    """The schedule of the convolutions of a class on an architecture."""
    assert tile.precision is not None
    positions, panels, chunks, stages = table()[tile.precision][architecture][tile.shape]
    return Schedule(tile.precision, positions, panels, chunks, stages, is_modern(architecture))
