"""Pooling at arbitrary positions. Windows are clipped to the picture."""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import FLT_MAX, LANES, MASK, SHIFT, Column

K = Column


def pool(maximum: bool) -> Callable[..., None]:
    """The body of max pooling or average pooling."""
    start = -FLT_MAX if maximum else 0.0

    def merge(total: Any, value: Any) -> Any:
        return T.max(total, value) if maximum else total + value

    @T.inline
    def body(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
        height = T.Bind(mem.c[row + K.IN_HEIGHT])
        width = T.Bind(mem.c[row + K.IN_WIDTH])
        for i in range(count):
            top = T.Bind((mem.q[first + i] >> SHIFT) * mem.c[row + K.STRIDE_H] - mem.c[row + K.PAD_H])
            left = T.Bind((mem.q[first + i] & MASK) * mem.c[row + K.STRIDE_W] - mem.c[row + K.PAD_W])
            for block in range(mem.c[row + K.BLOCKS]):
                total = T.alloc_buffer((LANES,), "float32")
                inside = T.alloc_buffer((1,), "int64")
                inside[0] = T.int64(0)
                for v in T.vectorized(LANES):
                    total[v] = T.float32(start)
                for kh in range(mem.c[row + K.KERNEL_H]):
                    y = T.Bind(top + kh * mem.c[row + K.DILATION_H])
                    if T.And(y >= 0, y < height):
                        for kw in range(mem.c[row + K.KERNEL_W]):
                            x = T.Bind(left + kw * mem.c[row + K.DILATION_W])
                            if T.And(x >= 0, x < width):
                                at = T.Bind(y * mem.c[row + K.IN_ROW] + x * mem.c[row + K.IN_PIXEL] + block * LANES)
                                inside[0] = inside[0] + 1
                                for v in T.vectorized(LANES):
                                    total[v] = merge(total[v], mem.a[mem.c[row + K.IN] + at + v])
                whole = T.meta_var(mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W])
                divisor = T.Bind(T.Cast("float32", T.Select(mem.c[row + K.COUNT_PAD] > 0, whole, inside[0])))
                for v in T.vectorized(LANES):
                    mem.a[scratch + i * mem.c[row + K.SCRATCH_PITCH] + block * LANES + v] = (
                        total[v] if maximum else total[v] / divisor
                    )

    return body
