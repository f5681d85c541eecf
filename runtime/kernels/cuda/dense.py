"""Dense islands on a GPU: a kernel for each of their nests of loops, and arrays that are given out whole.

A nest runs for the streams in which anything changed that its island reads; for the others it costs a look at as many
counts as it reads maps. Where a nest reduces, an output is summed by one thread, or by as many as its `Kernel` says,
each over every so many terms, whose sums are then folded as a tree. So the order of sums depends on the nest alone.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.script import tirx as T
from tvm.tirx import BufferLoad

from skipfx.runtime.dense.kernel import Kernel, Place
from skipfx.runtime.dense.nest import Axis, replaced
from skipfx.runtime.kernels.cuda.streams import cell, common, running
from skipfx.runtime.kernels.cuda.thread import Body, share, sync
from skipfx.runtime.kernels.table import THREADS, Cell, Column, SourceColumn

K = Column
S = SourceColumn


@T.inline
def find_due(mem: Any, row: Any, stream: Any, due: Any) -> None:
    """Sets `due` where a stream has a refresh, or a change in a map that the row lists."""
    due[0] = mem.n[cell(mem, T.int64(Cell.REFRESH), stream)]
    for i in range(mem.c[row + K.SOURCE_COUNT]):
        source = T.Bind(mem.c[row + K.SOURCES] + i * S.NUMBERS)
        due[0] = due[0] | mem.n[cell(mem, mem.c[source + S.COUNT], stream)]


def scaled(floats: Any, size: int) -> Any:
    """So many floats in elements of another size."""
    return floats * (4 // size) if size <= 4 else T.truncdiv(floats, T.int64(size // 4))


def dense(kernel: Kernel) -> Body:
    """The kernel of a nest."""
    run = _alone(kernel) if kernel.parts == 1 else _together(kernel, kernel.parts)
    count = len(kernel.places)

    @T.inline
    def body(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        for i in range(common(mem, Cell.RUNNING)):
            stream = T.Bind(running(mem, i))
            due = T.alloc_buffer((1,), "int64", scope="local")
            find_due(mem, row, stream, due)
            if due[0] > 0:
                at = T.alloc_buffer((count,), "int64", scope="local")
                for k in T.unroll(count):
                    at[k] = mem.c[mem.c[row + K.TABLE_H] + k]
                run(mem, block, blocks, thread, stream, at)

    return body


def _alone(kernel: Kernel) -> Callable[..., None]:
    """A thread for an output."""
    nest, value, out = kernel.nest, _value(kernel), next(iter(kernel.places.values()))
    total, terms = nest.out.size, prod(extent for _, extent in nest.reduced)
    merge: Any = nest.merge

    @T.inline
    def run(mem: Any, block: Any, blocks: Any, thread: Any, stream: Any, at: Any) -> None:
        first = T.Bind(block * THREADS + thread)
        for i in range(share(T.int64(total), first, blocks * THREADS)):
            item = T.Bind(first + i * (blocks * THREADS))
            made = T.alloc_buffer((1,), out.dtype, scope="local")
            if merge is None:
                made[0] = value(mem, stream, at, item, T.int64(0))
            else:
                made[0] = nest.start
                for term in range(T.int64(terms)):
                    made[0] = merge(made[0], value(mem, stream, at, item, term))
            view = T.meta_var(_view(mem, out))
            view[_offset(mem, stream, at, 0, out, _axes(nest.axes, item))] = made[0]

    return run


def _together(kernel: Kernel, parts: int) -> Callable[..., None]:
    """So many threads for an output; the outputs of a block lie side by side."""
    nest, value, out = kernel.nest, _value(kernel), next(iter(kernel.places.values()))
    total, terms = nest.out.size, prod(extent for _, extent in nest.reduced)
    width, merge = THREADS // parts, nest.merge
    assert merge is not None

    @T.inline
    def run(mem: Any, block: Any, blocks: Any, thread: Any, stream: Any, at: Any) -> None:
        sums = T.alloc_buffer((THREADS,), out.dtype, scope="shared")
        for i in range(share(T.int64(-(-total // width)), block, blocks)):
            item = T.Bind((block + i * blocks) * width + thread % width)
            made = T.alloc_buffer((1,), out.dtype, scope="local")
            made[0] = nest.start
            if item < total:
                for term in range(share(T.int64(terms), thread // width, parts)):
                    made[0] = merge(made[0], value(mem, stream, at, item, thread // width + term * parts))
            sync()
            sums[thread] = made[0]
            for level in T.unroll(parts.bit_length() - 1):
                half = T.meta_var(T.int64(THREADS // 2) >> T.Cast("int64", level))
                sync()
                if thread < half:
                    sums[thread] = merge(sums[thread], sums[thread + half])
            sync()
            if T.And(thread < width, item < total):
                view = T.meta_var(_view(mem, out))
                view[_offset(mem, stream, at, 0, out, _axes(nest.axes, item))] = sums[thread]

    return run


def _value(kernel: Kernel) -> Callable[..., Any]:
    """The expression of a nest at an output and a term, both by their number."""
    nest = kernel.nest
    places = {buffer: (number, place) for number, (buffer, place) in enumerate(kernel.places.items())}

    def value(mem: Any, stream: Any, at: Any, item: Any, term: Any) -> Any:
        axes = _numbers(nest.axes, item) | _numbers(nest.reduced, term)

        def read(load: Any) -> Any:
            number, place = places[load.source]
            return BufferLoad(_view(mem, place), [_offset(mem, stream, at, number, place, list(load.indices))])

        return tvm_ffi.structural_map(replaced(nest.value, axes), (TensorLoad, read))

    return value


def _numbers(axes: tuple[Axis, ...], item: Any) -> dict[Any, Any]:
    return {var: index.astype(str(var.ty)) for (var, _), index in zip(axes, _axes(axes, item), strict=True)}


def _axes(axes: tuple[Axis, ...], item: Any) -> list[Any]:
    """The indices that a number stands for, row by row."""
    found, inner, size = [], 1, prod(extent for _, extent in axes)
    for _, extent in reversed(axes):
        index = item if inner == 1 else T.truncdiv(item, T.int64(inner))
        found.append(
            T.int64(0) if extent == 1 else index if inner * extent == size else T.truncmod(index, T.int64(extent))
        )
        inner *= extent
    return found[::-1]


def _view(mem: Any, place: Place) -> Any:
    """The memory that a tensor lies in, as elements of its type."""
    views = mem.views[place.dtype]
    return views.w if place.constant else views.a


def _offset(mem: Any, stream: Any, at: Any, number: int, place: Place, indices: list[Any]) -> Any:
    start = at[number] if place.constant else at[number] + stream * scaled(mem.floats, place.size)
    for index, stride in zip(indices, place.strides, strict=True):
        start = start + tirx.Cast("int64", index) * stride
    return start


@T.inline
def find_lack(mem: Any, row: Any, stream: Any, lacks: Any) -> None:
    """Which output arrays lack what a stream holds, one bit each; one without a frame changes nothing."""
    due = T.alloc_buffer((1,), "int64", scope="local")
    due[0] = T.int64(0)
    if mem.n[cell(mem, T.int64(Cell.IDLE), stream)] == 0:
        find_due(mem, row, stream, due)
    lacks[0] = T.Select(due[0] > 0, T.uint8(255), mem.m[stream * mem.bytes + mem.c[row + K.DIRTY]])


@T.inline
def copy(mem: Any, part: Any, parts: Any, row: Any, stream: Any, dtype: Any) -> None:
    """A thread's part of a stream's array, in elements of some type."""
    size = T.meta_var(np.dtype(dtype).itemsize)
    source = T.meta_var(mem.views[dtype].a)
    given = T.meta_var(mem.views[dtype].o)
    count = T.Bind(T.truncdiv(mem.c[row + K.CHANNELS], T.int64(size)))
    start = T.Bind(scaled(mem.c[row + K.IN] + stream * mem.floats, size))
    out = T.Bind(scaled(mem.c[row + K.ARRAY] * mem.streams, size) + stream * count)
    for i in range(share(count, part, parts)):
        given[out + part + i * parts] = source[start + part + i * parts]


@T.inline
def give(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Copies an array into what is given out, where that lacks it."""
    for stream in range(mem.streams):
        lacks = T.alloc_buffer((1,), "uint8", scope="local")
        find_lack(mem, row, stream, lacks)
        if T.Or(common(mem, Cell.FULL) > 0, (lacks[0] & T.Cast("uint8", common(mem, Cell.SLOT))) > 0):
            if mem.c[row + K.WIDE] > 0:
                copy(mem, block * THREADS + thread, blocks * THREADS, row, stream, "float32")
            else:
                copy(mem, block * THREADS + thread, blocks * THREADS, row, stream, "uint8")


@T.inline
def settle(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Notes what was given."""
    for i in range(share(mem.streams, block * THREADS + thread, blocks * THREADS)):
        stream = T.Bind(block * THREADS + thread + i * (blocks * THREADS))
        lacks = T.alloc_buffer((1,), "uint8", scope="local")
        find_lack(mem, row, stream, lacks)
        mem.m[stream * mem.bytes + mem.c[row + K.DIRTY]] = lacks[0] & ~T.Cast("uint8", common(mem, Cell.SLOT))
