"""Frames in, on a GPU: see `skipfx.runtime.kernels.change`, whose columns and meaning these kernels keep.

A block takes whole rows of the picture. Counts of a map are sums of integers, so they come out the same in any order.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.thread import atomic_add, running_sum, share, sync
from skipfx.runtime.kernels.table import FLT_MAX, THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


@T.inline
def clear(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Zeroes the change maps and row flags that the last frame left; one source per map."""
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        if mem.n[mem.c[source + S.COUNT]] > 0:
            height = T.Bind(mem.c[source + S.HEIGHT])
            pitch = T.Bind(mem.c[source + S.MAP_ROW])
            for j in range(share(height, block, blocks)):
                y = T.Bind(block + j * blocks)
                for k in range(share(pitch, thread, THREADS)):
                    mem.m[mem.c[source + S.MAP] + y * pitch + thread + k * THREADS] = T.uint8(0)
                if thread == 0:
                    mem.m[mem.c[source + S.FLAGS] + y] = T.uint8(0)


@T.inline
def compare(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Marks the pixels whose norm of the difference to the held array exceeds the threshold, and finds NaN."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    rms = T.Bind(mem.c[row + K.NORM])
    threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + rms])
    for i in range(share(height, block, blocks)):
        y = T.Bind(block + i * blocks)
        flag = T.Bind(mem.c[row + K.MARKS] + height * width + y)
        if thread == 0:
            mem.m[flag] = T.uint8(0)
        sync()
        for j in range(share(width, thread, THREADS)):
            x = T.Bind(thread + j * THREADS)
            norm = T.alloc_buffer((1,), "float32", scope="local")
            bad = T.alloc_buffer((1,), "int32", scope="local")
            norm[0] = T.float32(0)
            bad[0] = T.int32(0)
            for channel in range(mem.c[row + K.CHANNELS]):
                at = T.Bind((channel * height + y) * width + x)
                held = T.Bind(y * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL] + channel)
                taken = T.Bind(mem.f[mem.c[row + K.ARRAY] + at])
                delta = T.Bind(taken - mem.a[mem.c[row + K.OUT] + held])
                if rms == 0:
                    size = T.meta_var(T.abs(delta))
                    norm[0] = T.max(norm[0], T.Select(size <= T.float32(FLT_MAX), size, T.float32(FLT_MAX)))
                else:
                    norm[0] = norm[0] + delta * delta
                bad[0] = bad[0] | T.Select(T.abs(taken) <= T.float32(FLT_MAX), T.int32(0), T.int32(1))
            mark = T.Bind(T.Select(norm[0] <= threshold, T.uint8(0), T.uint8(1)))  # NaN has changed
            mem.m[mem.c[row + K.MARKS] + y * width + x] = mark
            if mark > 0:
                mem.m[flag] = T.uint8(1)
            if T.And(bad[0] > 0, mem.c[row + K.FINITE] > 0):
                mem.n[T.int64(Cell.BAD)] = T.int64(1)


@T.inline
def dilate(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Grows the marks to their neighbourhood, into the change map, and counts them."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    half = T.Bind(mem.c[row + K.DILATION] // 2)
    marks = T.Bind(mem.c[row + K.MARKS])
    sums = T.alloc_buffer((THREADS,), "int64", scope="shared")
    sums[thread] = T.int64(0)
    for i in range(share(height, block, blocks)):
        y = T.Bind(block + i * blocks)
        low = T.Bind(T.max(y - half, T.int64(0)))
        high = T.Bind(T.min(y + half, height - 1))
        touched = T.alloc_buffer((1,), "uint8", scope="local")
        touched[0] = T.uint8(0)
        for k in range(high - low + 1):
            touched[0] = touched[0] | mem.m[marks + height * width + low + k]
        if touched[0] > 0:
            for j in range(share(width, thread, THREADS)):
                x = T.Bind(thread + j * THREADS)
                left = T.Bind(T.max(x - half, T.int64(0)))
                right = T.Bind(T.min(x + half, width - 1))
                found = T.alloc_buffer((1,), "uint8", scope="local")
                found[0] = T.uint8(0)
                for line in range(high - low + 1):
                    for column in range(right - left + 1):
                        found[0] = found[0] | mem.m[marks + (low + line) * width + left + column]
                mem.m[mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW] + x] = found[0]
                sums[thread] = sums[thread] + T.Cast("int64", found[0])
            if thread == 0:
                mem.m[mem.c[row + K.FLAGS] + y] = T.uint8(1)
    running_sum(sums, thread)
    if T.And(thread == 0, sums[THREADS - 1] > 0):
        T.evaluate(atomic_add(mem.n, mem.c[row + K.COUNT], sums[THREADS - 1]))


@T.inline
def decide(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Makes the frame a refresh where too much of it changed."""
    if T.And(block == 0, thread == 0):
        if mem.n[mem.c[row + K.COUNT]] > mem.c[row + K.DENSE_ABOVE]:
            mem.n[T.int64(Cell.REFRESH)] = T.int64(1)


@T.inline
def commit(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Writes the changed pixels into the held array and the feature map."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])
    for i in range(share(height, block, blocks)):
        y = T.Bind(block + i * blocks)
        changes = T.Bind(mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW])
        if T.Or(fresh > 0, mem.m[mem.c[row + K.FLAGS] + y] > 0):
            for j in range(share(width, thread, THREADS)):
                x = T.Bind(thread + j * THREADS)
                if T.Or(fresh > 0, mem.m[changes + x] > 0):
                    mem.m[changes + x] = T.uint8(1)
                    out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW] + x * mem.c[row + K.OUT_PIXEL])
                    for channel in range(mem.c[row + K.CHANNELS]):
                        at = T.Bind((channel * height + y) * width + x)
                        value = T.Bind(mem.f[mem.c[row + K.ARRAY] + at])
                        mem.a[out + channel] = value
            if thread == 0:
                mem.m[mem.c[row + K.FLAGS] + y] = T.uint8(1)
    if T.And(fresh > 0, T.And(block == 0, thread == 0)):
        mem.n[mem.c[row + K.COUNT]] = height * width
