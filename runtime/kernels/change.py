"""Frames in: clear the change maps, compare, dilate, decide, commit.

A frame (or the output of an island) [C, H, W] is compared with the feature map that holds it. Nothing of the state is
written before every frame of the call is known to be finite; a frame that is not leaves the state as it was.
"""

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import Broadcast, BufferLoad, Ramp, Shuffle

from skipfx.runtime.kernels.active import compact
from skipfx.runtime.kernels.table import FLT_MAX, LANES, LINES, TASKS, Cell, Column, SourceColumn

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


def finite(x: Any, limit: Any = FLT_MAX) -> Any:
    """The number, or the largest one where it is NaN or infinity, which count as a change."""
    limit = T.float32(limit) if isinstance(limit, float) else limit
    return T.Select(x <= limit, x, limit)


def distance(new: Any, held: Any, limit: Any = FLT_MAX) -> Any:
    """|new - held|, the largest number for NaN and infinity."""
    return finite(T.abs(new - held), limit)


def colours(mem: Any, new: Any, held: Any, plane: Any) -> Any:
    """The largest distance over three channels, for LANES pixels; the held ones are shuffled apart."""
    parts = [BufferLoad(mem.a, [Ramp(held + part * LANES, T.int64(1), LANES)]) for part in range(3)]
    limit = Broadcast(T.float32(FLT_MAX), LANES)
    moved = []
    for channel in range(3):
        one = Shuffle(parts, [T.int32(lane) for lane in range(channel, 3 * LANES, 3)])
        other = BufferLoad(mem.f, [Ramp(new + channel * plane, T.int64(1), LANES)])
        moved.append(distance(other, one, limit))
    return T.max(T.max(moved[0], moved[1]), moved[2])


@T.inline
def largest(mem: Any, row: Any, line: Any, new: Any, held: Any, plane: Any, width: Any) -> None:
    """The largest distance over the channels, for a row of pixels."""
    pixel = T.Bind(mem.c[row + K.OUT_PIXEL])
    if T.And(pixel == 3, mem.c[row + K.CHANNELS] == 3):  # colour pictures
        for block in range(width // LANES):
            at = T.Bind(line + block * LANES)
            mem.a[T.Ramp(at, T.int64(1), LANES)] = colours(mem, new + block * LANES, held + 3 * block * LANES, plane)
        tail = T.Bind(width // LANES * LANES)
        for x in range(width - tail):
            mem.a[line + tail + x] = T.float32(0)
            for c in T.unroll(3):
                moved = T.meta_var(distance(mem.f[new + c * plane + tail + x], mem.a[held + 3 * (tail + x) + c]))
                mem.a[line + tail + x] = T.max(mem.a[line + tail + x], moved)
    else:
        for x in range(width):
            mem.a[line + x] = T.float32(0)
        for channel in range(mem.c[row + K.CHANNELS]):
            for x in range(width):
                moved = T.meta_var(distance(mem.f[new + channel * plane + x], mem.a[held + x * pixel + channel]))
                mem.a[line + x] = T.max(mem.a[line + x], moved)


@T.inline
def squares(mem: Any, row: Any, line: Any, new: Any, held: Any, plane: Any, width: Any) -> None:
    """The sum of the squared differences over the channels, for a row of pixels."""
    pixel = T.Bind(mem.c[row + K.OUT_PIXEL])
    for x in range(width):
        mem.a[line + x] = T.float32(0)
    for channel in range(mem.c[row + K.CHANNELS]):
        for x in range(width):
            delta = T.meta_var(mem.f[new + channel * plane + x] - mem.a[held + x * pixel + channel])
            mem.a[line + x] = mem.a[line + x] + delta * delta


def is_bad(x: Any) -> Any:
    """1 for NaN and infinity."""
    return T.Select(T.abs(x) <= T.float32(FLT_MAX), T.int32(0), T.int32(1))  # `Not` would let NaN pass


@T.inline
def find_bad(mem: Any, new: Any, width: Any, bad: Any) -> None:
    """Looks for NaN and infinity in a row of one channel."""
    for block in range(width // LANES):
        for v in T.vectorized(LANES):
            bad[v] = bad[v] | is_bad(mem.f[new + block * LANES + v])
    tail = T.Bind(width // LANES * LANES)
    for x in range(width - tail):
        bad[0] = bad[0] | is_bad(mem.f[new + tail + x])


@T.inline
def compare(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Finds NaN, and, unless all changes, the pixels whose difference to the held ones exceeds the threshold."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    line = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    marks = T.Bind(mem.c[row + K.MARKS])
    rms = T.Bind(mem.c[row + K.NORM])
    threshold = T.Bind(mem.w[mem.c[row + K.THRESHOLD] + rms])
    bad = T.alloc_buffer((LANES,), "int32")
    for v in T.vectorized(LANES):
        bad[v] = T.int32(0)
    low = T.Bind(height * task // tasks)
    for i in range(height * (task + 1) // tasks - low):
        y = T.Bind(low + i)
        new = T.Bind(mem.c[row + K.ARRAY] + y * width)
        held = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW])
        fired = T.alloc_buffer((1,), "uint8")
        fired[0] = T.uint8(1)
        if mem.n[T.int64(Cell.REFRESH)] == 0:
            if rms == 0:
                largest(mem, row, line, new, held, height * width, width)
            else:
                squares(mem, row, line, new, held, height * width, width)
            fired[0] = T.uint8(0)
            for x in range(width):
                mark = T.meta_var(T.Select(mem.a[line + x] <= threshold, T.uint8(0), T.uint8(1)))  # NaN has changed
                mem.m[marks + y * width + x] = mark
                fired[0] = fired[0] | mark
            mem.m[marks + height * width + y] = fired[0]
        if T.And(fired[0] > 0, mem.c[row + K.FINITE] > 0):  # what is not finite has fired
            for channel in range(mem.c[row + K.CHANNELS]):
                find_bad(mem, new + channel * height * width, width, bad)
    for v in T.unroll(LANES):
        if bad[v] > 0:
            mem.n[T.int64(Cell.BAD)] = T.int64(1)


@T.inline
def dilate(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Grows the marks to their neighbourhood, into the change map."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    size = T.Bind(mem.c[row + K.DILATION])
    half = T.Bind(size // 2)
    marks = T.Bind(mem.c[row + K.MARKS])
    line = T.Bind(task * LINES * mem.c[row + K.LINE])
    total = T.alloc_buffer((1,), "int64")
    total[0] = T.int64(0)
    low = T.Bind(height * task // tasks)
    fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])  # then nothing was marked
    for i in range(T.Select(fresh > 0, T.int64(0), height * (task + 1) // tasks - low)):
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
    """Says whether anything changed, and makes the frame a refresh where too much of it did."""
    if task == 0:
        total = T.alloc_buffer((1,), "int64")
        total[0] = T.int64(0)
        for t in range(tasks):
            total[0] = total[0] + mem.n[mem.c[row + K.COUNT] + t]
        if total[0] > mem.c[row + K.DENSE_ABOVE]:
            mem.n[T.int64(Cell.REFRESH)] = T.int64(1)
        if total[0] + mem.n[T.int64(Cell.REFRESH)] > 0:
            mem.n[T.int64(Cell.STIRRED)] = T.int64(1)


@T.inline
def commit(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
    """Writes the changed pixels into the feature map."""
    height = T.Bind(mem.c[row + K.HEIGHT])
    width = T.Bind(mem.c[row + K.WIDTH])
    channels = T.Bind(mem.c[row + K.CHANNELS])
    fresh = T.Bind(mem.n[T.int64(Cell.REFRESH)])
    spots = T.Bind(mem.c[row + K.SPOTS] + task * mem.c[row + K.SPOTS_SIZE])
    low = T.Bind(height * task // tasks)
    high = T.Bind(height * (task + 1) // tasks)
    for i in range(high - low):
        y = T.Bind(low + i)
        changes = T.Bind(mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW])
        out = T.Bind(mem.c[row + K.OUT] + y * mem.c[row + K.OUT_ROW])
        new = T.Bind(mem.c[row + K.ARRAY] + y * width)
        pixel = T.Bind(mem.c[row + K.OUT_PIXEL])
        if T.And(fresh > 0, T.And(pixel == 3, channels == 3)):
            for x in range(width):
                for channel in T.unroll(3):
                    mem.a[out + 3 * x + channel] = mem.f[new + channel * height * width + x]
        elif fresh > 0:
            for channel in range(channels):
                for x in range(width):
                    mem.a[out + x * pixel + channel] = mem.f[new + channel * height * width + x]
        elif mem.m[mem.c[row + K.FLAGS] + y] > 0:
            found = T.alloc_buffer((1,), "int64")
            found[0] = T.int64(0)
            compact(mem, mem.m, changes, width, T.int64(0), spots, found)
            for channel in range(channels):
                for k in range(found[0]):
                    x = T.Bind(mem.q[spots + k])
                    mem.a[out + x * pixel + channel] = mem.f[new + channel * height * width + x]
    if fresh > 0:
        mem.n[mem.c[row + K.COUNT] + task] = (high - low) * width
