"""The product of gathered rows and weights in shared memory, summed in registers.

In float32 each thread sums single positions x one channel of each panel. In the other precisions a warp sums with its
tensor core: operands are rounded where they are read from shared memory, products are exact and sums float32. A step of
a tensor core takes 16 positions x 8 output channels; which thread holds what of it is laid down by CUDA (PTX ISA,
"Matrix fragments for mma.m16n8k8" and ".m16n8k16"). Which input channel is which column of a fragment is free, as long
as rows and weights agree: here a thread takes four neighbours of CHUNK channels, the first two for the first half of
the columns.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.schedule import COLUMN, ROW, WARP, Schedule
from skipfx.runtime.kernels.table import CHUNK, LANES, SIDE_BY_SIDE, THREADS, Precision

OURS: Final = 4  # channels of a CHUNK that a thread reads
SHARE: Final = 4  # sums that a thread holds of a tensor core's product


class Product(NamedTuple):
    """How a tile is summed.

    Attributes:
        sums: per thread.
        place: (thread, i) -> position and channel in the tile of a thread's sum i.
        add: (thread, x, b, stage, left, spare, sums): adds what a stage holds, of which `left` channels count.
    """

    sums: int
    place: Callable[[Any, Any], tuple[Any, Any]]
    add: Callable[..., None]


def product(schedule: Schedule) -> Product:
    """The product of a schedule."""
    return _scalar(schedule) if schedule.precision == "fp32" else _tensor(schedule, FRAGMENTS[schedule.precision])


def _scalar(schedule: Schedule) -> Product:
    rows, panels = schedule.positions // SIDE_BY_SIDE, schedule.panels

    def place(thread: Any, i: Any) -> tuple[Any, Any]:
        return thread // LANES + i // panels * SIDE_BY_SIDE, i % panels * LANES + thread % LANES

    @T.inline
    def add(thread: Any, x: Any, b: Any, stage: Any, left: Any, spare: Any, sums: Any) -> None:
        for chunk in T.unroll(schedule.chunks):
            if chunk * CHUNK < left:
                for k in range(CHUNK):
                    for i in T.unroll(rows):
                        for j in T.unroll(panels):
                            sums[i * panels + j] = (
                                sums[i * panels + j]
                                + x[stage, chunk, thread // LANES + i * SIDE_BY_SIDE, k]
                                * b[stage, j, chunk, k * LANES + thread % LANES]
                            )

    return Product(rows * panels, place, add)


class Fragment(NamedTuple):
    """The operands of a tensor core.

    Attributes:
        type: of a thread's share of the rows.
        name: in PTX.
        packed: how many of them a register holds.
    """

    type: str
    name: str
    packed: int

    def slot(self, half: Any, i: Any) -> Any:
        """Where a thread holds its channel i of a row in the upper or lower half of a fragment."""
        return i // 2 * 4 + (half * 2 + i % 2 if self.packed == 2 else i % 2 * 2 + half)

    def rounded(self, value: Any) -> Any:
        """A float32, to nearest: ties to even in 16 bits, away from zero in TF32, as `cvt.rna.tf32`."""
        if self.name == "tf32":
            bits = T.reinterpret("uint32", value) + T.uint32(1 << 12)
            return T.reinterpret("float32", bits & T.uint32(0xFFFFE000))
        return T.Cast(self.type, value)


FRAGMENTS: Final[dict[Precision, Fragment]] = {
    "tf32": Fragment("float32", "tf32", 1),
    "fp16": Fragment("float16", "fp16", 2),
    "bf16": Fragment("bfloat16", "bf16", 2),
}


def _tensor(schedule: Schedule, kind: Fragment) -> Product:
    rows, columns = schedule.rows, schedule.columns
    steps = 1 if schedule.modern and kind.packed == 2 else 2  # of a tensor core per CHUNK
    words = OURS // kind.packed // steps  # of weights that a thread reads for a step
    shape = f"m{ROW}n{COLUMN}k{CHUNK // steps}"

    def row_of(thread: Any, m: Any, half: Any) -> Any:
        """Position of a thread's row in product m of its warp."""
        return (thread // WARP % schedule.down * rows + m) * ROW + half * (ROW // 2) + thread % WARP // 4

    def column_of(thread: Any, q: Any) -> Any:
        """Number of product q of a thread's warp among those that stand side by side."""
        return thread // WARP // schedule.down * columns + q

    def place(thread: Any, i: Any) -> tuple[Any, Any]:
        q = i // SHARE
        return (
            row_of(thread, q // columns, i // 2 % 2),
            column_of(thread, q % columns) * COLUMN + thread % 4 * 2 + i % 2,
        )

    def multiply(a: Any, m: Any, step: Any, b: Any, sums: Any, q: Any) -> Any:
        operands = (a.data, m * 8 + step * 4, b.data, 0, sums.data, (m * columns + q) * SHARE)
        names = (shape, "row", "col", kind.name, kind.name, "fp32")
        return T.evaluate(T.ptx_legacy.mma(*names, *operands, False, dtype="float32"))

    @T.inline
    def add(thread: Any, x: Any, b: Any, stage: Any, left: Any, spare: Any, sums: Any) -> None:
        mine = T.alloc_buffer((rows * 8,), kind.type, scope="local")
        theirs = T.alloc_buffer((words,), "float32", scope="local")
        for chunk in T.unroll(schedule.chunks):
            if chunk * CHUNK < left:
                for m in T.unroll(rows):
                    for half in T.unroll(2):
                        for i in T.unroll(OURS):
                            value = T.meta_var(x[stage, chunk, row_of(thread, m, half), thread % 4 * OURS + i])
                            mine[m * 8 + kind.slot(half, i)] = kind.rounded(value)
                for step in T.unroll(steps):
                    for q in T.unroll(columns):
                        column = T.Bind(column_of(thread, q))
                        if column * COLUMN < spare * LANES:
                            for i in T.unroll(words):
                                row = T.meta_var(column % 2 * COLUMN + thread % WARP // 4)
                                theirs[i] = b[
                                    stage, column // 2, chunk, ((row * 4 + thread % 4) * steps + step) * words + i
                                ]
                            for m in T.unroll(rows):
                                multiply(mine, m, step, theirs, sums, q)

    return Product(schedule.positions * schedule.panels * LANES // THREADS, place, add)
