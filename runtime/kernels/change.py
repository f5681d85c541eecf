"""Frames in: clear the change maps, compare, dilate, decide, commit.

A frame (or the output of an island) is compared with the held array of the same layout. Nothing of the state is written
before every frame of the call is known to be finite; a frame that is not leaves the state as it was.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import FLT_MAX, TASKS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


@T.inline
def clear(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Zeroes the change maps and row flags that the last frame left; one source per map."""
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        total = T.alloc_buffer((1,), "int64")
        total[0] = T.int64(0)
        for t in range(T.int64(TASKS)):
            total[0] = total[0] + mem.n[mem.c[source + S.COUNT] + t]
        if total[0] > 0:
            height = T.Bind(mem.c[source + S.HEIGHT])
            start = T.Bind(mem.c[source + S.MAP])
            low = T.Bind(height * task // tasks)
            high = T.Bind(height * (task + 1) // tasks)
            pitch = T.Bind(mem.c[source + S.MAP_ROW])
            for j in range((high - low) * pitch):
                mem.m[start + low * pitch + j] = T.uint8(0)
            for y in range(high - low):
                mem.m[mem.c[source + S.FLAGS] + low + y] = T.uint8(0)


@T.inline
def compare(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Marks the pixels whose norm of the difference to the held array exceeds the threshold, and finds NaN."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    line = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    marks = T.Bind(mem.c[row + K.MARKS])
    rms = T.Bind(mem.c[row + K.NORM])
    threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + rms])
    bad = T.alloc_buffer((1,), "int32")
    bad[0] = T.int32(0)
    low = T.Bind(height * task // tasks)
    for i in range(height * (task + 1) // tasks - low):
        y = T.Bind(low + i)
        for x in range(width):
            mem.a[line + x] = T.float32(0)
        for channel in range(mem.c[row + K.CHANNELS]):
            at = T.Bind((channel * height + y) * width)
            new = T.Bind(mem.c[row + K.ARRAY] + at)
            held = T.Bind(mem.c[row + K.PLANE] + at)
            if rms == 0:
                for x in range(width):
                    delta = T.meta_var(T.abs(mem.f[new + x] - mem.a[held + x]))
                    mem.a[line + x] = T.max(
                        mem.a[line + x], T.Select(delta <= T.float32(FLT_MAX), delta, T.float32(FLT_MAX))
                    )
                    finite = T.meta_var(T.abs(mem.f[new + x]) <= T.float32(FLT_MAX))
                    bad[0] = bad[0] | T.Select(finite, T.int32(0), T.int32(1))  # `Not` would let NaN pass
            else:
                for x in range(width):
                    delta = T.meta_var(mem.f[new + x] - mem.a[held + x])
                    mem.a[line + x] = mem.a[line + x] + delta * delta
        fired = T.alloc_buffer((1,), "uint8")
        fired[0] = T.uint8(0)
        for x in range(width):
            mark = T.meta_var(T.Select(mem.a[line + x] <= threshold, T.uint8(0), T.uint8(1)))  # NaN has changed
            mem.m[marks + y * width + x] = mark
            fired[0] = fired[0] | mark
        mem.m[marks + height * width + y] = fired[0]
    if T.And(bad[0] > 0, mem.c[row + K.FINITE] > 0):
        mem.n[T.int64(Cell.BAD)] = T.int64(1)


@T.inline
def dilate(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Grows the marks to their neighbourhood, into the change map."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    size = T.Bind(mem.c[row + K.DILATION])
    half = T.Bind(size // 2)
    marks = T.Bind(mem.c[row + K.MARKS])
    line = T.Bind(task * 2 * mem.c[row + K.LINE])
    total = T.alloc_buffer((1,), "int64")
    total[0] = T.int64(0)
    low = T.Bind(height * task // tasks)
    for i in range(height * (task + 1) // tasks - low):
        y = T.Bind(low + i)
        touched = T.alloc_buffer((1,), "int64")
        touched[0] = T.int64(0)
        for k in range(size):
            above = T.Bind(y + k - half)
            if T.And(above >= 0, above < height):
                if mem.m[marks + height * width + T.max(T.min(above, height - 1), 0)] > 0:
                    if touched[0] == 0:
                        for x in range(width + size):
                            mem.s[line + x] = T.uint8(0)
                        touched[0] = T.int64(1)
                    for x in range(width):
                        mem.s[line + half + x] = mem.s[line + half + x] | mem.m[marks + above * width + x]
        if touched[0] > 0:
            changes = T.Bind(mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW])
            for k in range(size):
                for x in range(width):
                    mem.m[changes + x] = mem.m[changes + x] | mem.s[line + x + k]
            for x in range(width):
                total[0] = total[0] + T.Cast("int64", mem.m[changes + x])
            mem.m[mem.c[row + K.FLAGS] + y] = T.uint8(1)
    mem.n[mem.c[row + K.COUNT] + task] = total[0]


@T.inline
def decide(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Makes the frame a refresh where too much of it changed."""
    if task == 0:
        total = T.alloc_buffer((1,), "int64")
        total[0] = T.int64(0)
        for t in range(tasks):
            total[0] = total[0] + mem.n[mem.c[row + K.COUNT] + t]
        if total[0] > mem.c[row + K.DENSE_ABOVE]:
            mem.n[T.int64(Cell.REFRESH)] = T.int64(1)


@T.inline
def commit(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Writes the changed pixels into the held array and the feature map."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    channels = T.Bind(mem.c[row + K.CHANNELS])
    fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])
    low = T.Bind(height * task // tasks)
    high = T.Bind(height * (task + 1) // tasks)
    for i in range(high - low):
        y = T.Bind(low + i)
        changes = T.Bind(mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW])
        out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW])
        pixel = T.Bind(mem.c[row + K.OUT_PIXEL])
        if fresh > 0:
            for channel in range(channels):
                at = T.Bind((channel * height + y) * width)
                for x in range(width):
                    mem.a[mem.c[row + K.PLANE] + at + x] = mem.f[mem.c[row + K.ARRAY] + at + x]
                for x in range(width):
                    mem.a[out + x * pixel + channel] = mem.f[mem.c[row + K.ARRAY] + at + x]
        elif mem.m[mem.c[row + K.FLAGS] + y] > 0:
            for x in range(width):
                if mem.m[changes + x] > 0:
                    for channel in range(channels):
                        at = T.Bind((channel * height + y) * width + x)
                        value = T.Bind(mem.f[mem.c[row + K.ARRAY] + at])
                        mem.a[mem.c[row + K.PLANE] + at] = value
                        mem.a[out + x * pixel + channel] = value
    if fresh > 0:
        mem.n[mem.c[row + K.COUNT] + task] = (high - low) * width
