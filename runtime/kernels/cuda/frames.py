"""Frames in, on a GPU: see `skipfx.runtime.kernels.change`, whose columns and meaning these kernels keep.

A block takes whole rows of the pictures of the streams that have a frame. Counts of a map are sums of integers, so they
come out the same in any order.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.streams import cell, common, line_at, lines, running, stream_at
from skipfx.runtime.kernels.cuda.thread import atomic_add, running_sum, share, sync
from skipfx.runtime.kernels.table import FLT_MAX, TASKS, THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


def frame(mem: Any, row: Any, stream: Any) -> Any:
    """Where a stream's frame starts: the frames of all streams lie one behind the other."""
    size = mem.c[row + K.CHANNELS] * mem.c[row + K.HEIGHT] * mem.c[row + K.WIDTH]
    return mem.c[row + K.ARRAY] * mem.streams + stream * size


@T.inline
def clear(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Zeroes the change maps and row flags that a stream's last step left; one source per map."""
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        height = T.Bind(mem.c[source + S.HEIGHT])
        pitch = T.Bind(mem.c[source + S.MAP_ROW])
        for j in range(share(lines(mem, height), block, blocks)):
            stream = T.Bind(stream_at(mem, block + j * blocks, height))
            y = T.Bind(line_at(block + j * blocks, height))
            if mem.n[cell(mem, mem.c[source + S.COUNT], stream)] > 0:
                maps = T.Bind(stream * mem.bytes)
                for k in range(share(pitch, thread, THREADS)):
                    mem.m[maps + mem.c[source + S.MAP] + y * pitch + thread + k * THREADS] = T.uint8(0)
                if thread == 0:
                    mem.m[maps + mem.c[source + S.FLAGS] + y] = T.uint8(0)


@T.inline
def begin(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Zeroes the counts of the streams that have a frame, and the lengths of the lists."""
    first = T.int64(Cell.FIRST_COUNT)
    for i in range(share(mem.numbers - first, block * THREADS + thread, blocks * THREADS)):
        number = T.Bind(block * THREADS + thread + i * blocks * THREADS)
        for j in range(common(mem, Cell.RUNNING)):
            mem.n[cell(mem, first + number, running(mem, j))] = T.int64(0)
        if number % TASKS == 1:  # see `listed`
            mem.n[cell(mem, first + number, T.int64(0))] = T.int64(0)


@T.inline
def compare(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Marks the pixels whose norm of the difference to the held array exceeds the threshold, and finds NaN."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    rms = T.Bind(mem.c[row + K.NORM])
    threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + rms])
    for i in range(share(lines(mem, height), block, blocks)):
        stream = T.Bind(stream_at(mem, block + i * blocks, height))
        y = T.Bind(line_at(block + i * blocks, height))
        marks = T.Bind(stream * mem.bytes + mem.c[row + K.MARKS])
        taken = T.Bind(frame(mem, row, stream))
        held = T.Bind(stream * mem.floats + mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW])
        flag = T.Bind(marks + height * width + y)
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
                now = T.Bind(mem.f[taken + (channel * height + y) * width + x])
                delta = T.Bind(now - mem.a[held + x * mem.c[row + K.OUT_PIXEL] + channel])
                if rms == 0:
                    size = T.meta_var(T.abs(delta))
                    norm[0] = T.max(norm[0], T.Select(size <= T.float32(FLT_MAX), size, T.float32(FLT_MAX)))
                else:
                    norm[0] = norm[0] + delta * delta
                bad[0] = bad[0] | T.Select(T.abs(now) <= T.float32(FLT_MAX), T.int32(0), T.int32(1))
            mark = T.Bind(T.Select(norm[0] <= threshold, T.uint8(0), T.uint8(1)))  # NaN has changed
            mem.m[marks + y * width + x] = mark
            if mark > 0:
                mem.m[flag] = T.uint8(1)
            if T.And(bad[0] > 0, mem.c[row + K.FINITE] > 0):
                mem.n[cell(mem, T.int64(Cell.BAD), stream)] = T.int64(1)
                mem.n[cell(mem, T.int64(Cell.SPOILT), T.int64(0))] = T.int64(1)


@T.inline
def dilate(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Grows the marks to their neighbourhood, into the change map, and counts them."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    half = T.Bind(mem.c[row + K.DILATION] // 2)
    sums = T.alloc_buffer((THREADS,), "int64", scope="shared")
    for i in range(share(lines(mem, height), block, blocks)):
        stream = T.Bind(stream_at(mem, block + i * blocks, height))
        y = T.Bind(line_at(block + i * blocks, height))
        maps = T.Bind(stream * mem.bytes)
        marks = T.Bind(maps + mem.c[row + K.MARKS])
        low = T.Bind(T.max(y - half, T.int64(0)))
        high = T.Bind(T.min(y + half, height - 1))
        touched = T.alloc_buffer((1,), "uint8", scope="local")
        touched[0] = T.uint8(0)
        for k in range(high - low + 1):
            touched[0] = touched[0] | mem.m[marks + height * width + low + k]
        if touched[0] > 0:
            changes = T.Bind(maps + mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW])
            sums[thread] = T.int64(0)
            for j in range(share(width, thread, THREADS)):
                x = T.Bind(thread + j * THREADS)
                left = T.Bind(T.max(x - half, T.int64(0)))
                right = T.Bind(T.min(x + half, width - 1))
                found = T.alloc_buffer((1,), "uint8", scope="local")
                found[0] = T.uint8(0)
                for line in range(high - low + 1):
                    for column in range(right - left + 1):
                        found[0] = found[0] | mem.m[marks + (low + line) * width + left + column]
                mem.m[changes + x] = found[0]
                sums[thread] = sums[thread] + T.Cast("int64", found[0])
            running_sum(sums, thread)
            if thread == 0:
                mem.m[maps + mem.c[row + K.FLAGS] + y] = T.uint8(1)
                T.evaluate(atomic_add(mem.n, cell(mem, mem.c[row + K.COUNT], stream), sums[THREADS - 1]))
            sync()


@T.inline
def decide(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Makes the frame of a stream a refresh where too much of it changed."""
    if block == 0:
        for i in range(share(common(mem, Cell.RUNNING), thread, THREADS)):
            stream = T.Bind(running(mem, thread + i * THREADS))
            if mem.n[cell(mem, mem.c[row + K.COUNT], stream)] > mem.c[row + K.DENSE_ABOVE]:
                mem.n[cell(mem, T.int64(Cell.REFRESH), stream)] = T.int64(1)


@T.inline
def commit(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Writes the changed pixels into the held array and the feature map."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    for i in range(share(lines(mem, height), block, blocks)):
        stream = T.Bind(stream_at(mem, block + i * blocks, height))
        y = T.Bind(line_at(block + i * blocks, height))
        fresh = T.Bind(mem.n[cell(mem, T.int64(Cell.REFRESH), stream)])
        maps = T.Bind(stream * mem.bytes)
        changes = T.Bind(maps + mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW])
        held = T.Bind(stream * mem.floats + mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW])
        taken = T.Bind(frame(mem, row, stream))
        if T.Or(fresh > 0, mem.m[maps + mem.c[row + K.FLAGS] + y] > 0):
            for j in range(share(width, thread, THREADS)):
                x = T.Bind(thread + j * THREADS)
                if T.Or(fresh > 0, mem.m[changes + x] > 0):
                    mem.m[changes + x] = T.uint8(1)
                    for channel in range(mem.c[row + K.CHANNELS]):
                        value = T.Bind(mem.f[taken + (channel * height + y) * width + x])
                        mem.a[held + x * mem.c[row + K.OUT_PIXEL] + channel] = value
            if thread == 0:
                mem.m[maps + mem.c[row + K.FLAGS] + y] = T.uint8(1)
                if fresh > 0:
                    mem.n[cell(mem, mem.c[row + K.COUNT], stream)] = height * width
