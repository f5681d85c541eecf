"""Convolution at arbitrary positions: a register tile of TILE positions x LANES output channels.

The input is [positions, channels] with a border of zeros, so each position is one base offset and the loops over the
window have no tests. Weights are packed [groups, blocks, kh, kw, C_in, LANES]; the output block stands outside the loop
over the tiles of a chunk, so its weights stay in the cache. Sums run in one order whatever the active set, so a value
does not depend on what else is computed.
"""

from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES, SHIFT, TILE, Column

K = Column
MASK = (1 << SHIFT) - 1


def offset(mem: Any, row: Any, position: Any) -> Any:
    """Where the window of a packed position starts, from the first position of the padded input."""
    y = (position >> SHIFT) * mem.c[row + K.STRIDE_H] * mem.c[row + K.IN_ROW]
    return y + (position & MASK) * mem.c[row + K.STRIDE_W] * mem.c[row + K.IN_PIXEL]


@T.inline
def conv(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any) -> None:
    """Raw sums, bias included, of `count` positions into the task's scratch."""
    scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
    kernel_h = T.Bind(mem.c[row + K.KERNEL_H])
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    run = T.Bind(mem.c[row + K.RUN])
    step_h = T.Bind(mem.c[row + K.STEP_H])
    step_w = T.Bind(mem.c[row + K.STEP_W])
    blocks = T.Bind(mem.c[row + K.BLOCKS])
    for group in range(mem.c[row + K.GROUPS]):
        for block in range(blocks):
            panel = T.Bind(group * blocks + block)
            weight = T.Bind(mem.c[row + K.WEIGHT] + panel * kernel_h * kernel_w * run * LANES)
            bias = T.Bind(mem.c[row + K.BIAS] + panel * LANES)
            out = T.Bind(scratch + group * mem.c[row + K.GROUP_OUT] + block * LANES)
            source = T.Bind(mem.c[row + K.IN] + group * mem.c[row + K.GROUP_IN])
            for tile in range((count + TILE - 1) // TILE):
                base = T.alloc_buffer((TILE,), "int64")
                sums = T.alloc_buffer((TILE, LANES), "float32")
                for p in T.unroll(TILE):
                    base[p] = source + offset(mem, row, mem.q[first + tile * TILE + p])
                    for v in T.vectorized(LANES):
                        sums[p, v] = mem.w[bias + v]
                for kh in range(kernel_h):
                    for kw in range(kernel_w):
                        for k in range(run):
                            for p in T.unroll(TILE):
                                for v in T.vectorized(LANES):
                                    sums[p, v] = sums[p, v] + mem.a[base[p] + kh * step_h + kw * step_w + k] * mem.w[weight + ((kh * kernel_w + kw) * run + k) * LANES + v]  # fmt: skip  # noqa: E501
                for p in T.unroll(TILE):
                    for v in T.vectorized(LANES):
                        mem.a[out + (tile * TILE + p) * pitch + v] = sums[p, v]


@T.inline
def depthwise(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any) -> None:
    """One filter per channel; weights packed [kh, kw, C]."""
    scratch = T.Bind(mem.c[row + K.SCRATCH] + task * mem.c[row + K.SCRATCH_SIZE])
    pitch = T.Bind(mem.c[row + K.SCRATCH_PITCH])
    kernel_h = T.Bind(mem.c[row + K.KERNEL_H])
    kernel_w = T.Bind(mem.c[row + K.KERNEL_W])
    step_h = T.Bind(mem.c[row + K.STEP_H])
    step_w = T.Bind(mem.c[row + K.STEP_W])
    padded = T.Bind(mem.c[row + K.BLOCKS] * LANES)
    for tile in range((count + TILE - 1) // TILE):
        for block in range(mem.c[row + K.BLOCKS]):
            base = T.alloc_buffer((TILE,), "int64")
            sums = T.alloc_buffer((TILE, LANES), "float32")
            for p in T.unroll(TILE):
                base[p] = mem.c[row + K.IN] + block * LANES + offset(mem, row, mem.q[first + tile * TILE + p])
                for v in T.vectorized(LANES):
                    sums[p, v] = mem.w[mem.c[row + K.BIAS] + block * LANES + v]
            for kh in range(kernel_h):
                for kw in range(kernel_w):
                    weight = T.Bind(mem.c[row + K.WEIGHT] + (kh * kernel_w + kw) * padded + block * LANES)
                    for p in T.unroll(TILE):
                        for v in T.vectorized(LANES):
                            sums[p, v] = sums[p, v] + mem.a[base[p] + kh * step_h + kw * step_w + v] * mem.w[weight + v]
            for p in T.unroll(TILE):
                for v in T.vectorized(LANES):
                    mem.a[scratch + (tile * TILE + p) * pitch + block * LANES + v] = sums[p, v]
