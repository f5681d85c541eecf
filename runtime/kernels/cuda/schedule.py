"""How a convolution on a GPU is cut up, and what its architecture can do."""

from typing import Final, NamedTuple

from skipfx.runtime.kernels.table import CHUNK, LANES, THREADS, Precision, chunk_words

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

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block: rows and weights of all stages, then addresses and the end's norms."""
        stage = self.chunks * (self.positions * CHUNK + self.panels * chunk_words(self.precision))
        return 4 * self.stages * stage + self.positions * (8 + 8 * LANES)


def is_modern(architecture: str) -> bool:
    """Whether an architecture, "sm_80", has asynchronous copies and all types of tensor cores."""
    return int(architecture.removeprefix("sm_")) >= 80
