"""Pooling on a GPU, at arbitrary positions; windows are clipped to the picture.

LANES threads take LANES channels of a position. Of small windows they read all taps, and the positions of a tile lie
side by side; of a window with WIDE taps or more all threads of the block read a share. Which of the two depends on the
window alone, so a value does not depend on what else is active.
"""

from typing import Any, Final

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import column_of, line_of, stream_of
from skipfx.runtime.kernels.cuda.thread import Body, share, sync
from skipfx.runtime.kernels.table import FLT_MAX, LANES, SIDE_BY_SIDE, THREADS, Column

K = Column
WIDE: Final = 4 * SIDE_BY_SIDE


def begin(start: Any, step: Any) -> Any:
    """The first tap of a window that lies in the picture, along one axis."""
    return T.max(T.int64(0), T.truncdiv(step - 1 - start, step))


def end(start: Any, step: Any, taps: Any, size: Any) -> Any:
    """The number of the tap behind the last one that does."""
    return T.min(taps, T.truncdiv(size - start + step - 1, step))


def pool(maximum: bool) -> Body:
    """The body of max pooling or average pooling."""
    first_of = -FLT_MAX if maximum else 0.0

    def merge(total: Any, value: Any) -> Any:
        return T.max(total, value) if maximum else total + value

    @T.inline
    def window(mem: Any, row: Any, position: Any, channel: Any, part: Any, parts: Any, total: Any, inside: Any) -> None:
        """Merges every `parts`-th tap from number `part` on; `inside` counts all taps in the picture."""
        step_h = T.Bind(mem.c[row + K.DILATION_H])
        step_w = T.Bind(mem.c[row + K.DILATION_W])
        top = T.Bind(line_of(position) * mem.c[row + K.STRIDE_H] - mem.c[row + K.PAD_H])
        left = T.Bind(column_of(position) * mem.c[row + K.STRIDE_W] - mem.c[row + K.PAD_W])
        y = T.Bind(begin(top, step_h))
        x = T.Bind(begin(left, step_w))
        rows = T.Bind(end(top, step_h, mem.c[row + K.KERNEL_H], mem.c[row + K.IN_HEIGHT]) - y)
        columns = T.Bind(end(left, step_w, mem.c[row + K.KERNEL_W], mem.c[row + K.IN_WIDTH]) - x)
        corner = T.meta_var((top + y * step_h) * mem.c[row + K.IN_ROW] + (left + x * step_w) * mem.c[row + K.IN_PIXEL])
        source = T.Bind(stream_of(position) * mem.floats + mem.c[row + K.IN] + corner + channel)
        total[0] = T.float32(first_of)
        inside[0] = rows * columns
        for j in range(rows):
            k = T.Bind((part - j * columns) & (parts - 1))  # taps are numbered row by row
            line = T.Bind(source + j * step_h * mem.c[row + K.IN_ROW])
            for i in range(share(columns, k, parts)):
                total[0] = merge(total[0], mem.a[line + (k + i * parts) * step_w * mem.c[row + K.IN_PIXEL]])

    @T.inline
    def write(mem: Any, row: Any, out: Any, total: Any, inside: Any) -> None:
        whole = T.meta_var(mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W])
        divisor = T.Bind(T.Cast("float32", T.Select(mem.c[row + K.COUNT_PAD] > 0, whole, inside[0])))
        mem.a[out] = total[0] if maximum else total[0] / divisor

    @T.inline
    def alone(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        """LANES threads for a window."""
        for i in range(share(count, thread // LANES, SIDE_BY_SIDE)):
            item = T.Bind(thread // LANES + i * SIDE_BY_SIDE)
            for block in range(share(mem.c[row + K.CHANNELS], thread % LANES, LANES)):
                channel = T.Bind(block * LANES + thread % LANES)
                total = T.alloc_buffer((1,), "float32", scope="local")
                inside = T.alloc_buffer((1,), "int64", scope="local")
                window(mem, row, mem.q[first + item], channel, T.int64(0), 1, total, inside)
                write(mem, row, scratch + item * mem.c[row + K.SCRATCH_PITCH] + channel, total, inside)

    @T.inline
    def together(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        """All threads for a window."""
        parts = T.alloc_buffer((THREADS,), "float32", scope="shared")
        for item in range(count):
            for block in range((mem.c[row + K.CHANNELS] + (LANES - 1)) // LANES):
                channel = T.Bind(block * LANES + thread % LANES)
                total = T.alloc_buffer((1,), "float32", scope="local")
                inside = T.alloc_buffer((1,), "int64", scope="local")
                if channel < mem.c[row + K.CHANNELS]:
                    window(mem, row, mem.q[first + item], channel, thread // LANES, SIDE_BY_SIDE, total, inside)
                sync()
                parts[thread] = total[0]
                sync()
                if T.And(thread < LANES, channel < mem.c[row + K.CHANNELS]):
                    for part in range(SIDE_BY_SIDE - 1):
                        total[0] = merge(total[0], parts[(part + 1) * LANES + thread])
                    write(mem, row, scratch + item * mem.c[row + K.SCRATCH_PITCH] + channel, total, inside)

    @T.inline
    def body(mem: Any, thread: Any, row: Any, first: Any, count: Any, scratch: Any) -> None:
        if mem.c[row + K.KERNEL_H] * mem.c[row + K.KERNEL_W] < WIDE:
            alone(mem, thread, row, first, count, scratch)
        else:
            together(mem, thread, row, first, count, scratch)

    return body
