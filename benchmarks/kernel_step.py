"""Our convolution step alone: the compiled rows that compute given positions of `benchmarks.convolutions`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.convolutions import Convolution
from skipfx.plan import Buffer, Compute, Gate, Ingest, Plan, Segment, Source, View
from skipfx.runtime.assemble import assemble
from skipfx.runtime.backends import backend
from skipfx.runtime.engine import Engine, Part, Program
from skipfx.runtime.kernels.table import Column, Op
from skipfx.runtime.native import tensor, use_threads
from skipfx.runtime.stream import Stream

Floats = NDArray[np.float32]

ALWAYS = Gate(threshold=-1.0)  # every norm exceeds it: each position is written, as a dense kernel does


def plan_of(shape: Convolution) -> Plan:
    """COPIES of a convolution on one frame, and a second frame [1, 1, H, W] that says which positions are computed.

    All write to one map, as the libraries add up to one tensor: so many bytes leave the caches in both.
    """
    buffers = [
        Buffer(shape.height, shape.width, shape.taken, shape.padding),
        Buffer(*shape.out, 1, 0),
        Buffer(*shape.out, shape.given, 0),
    ]
    views = [View(index, 0, buffer.channels, (index,)) for index, buffer in enumerate(buffers)]
    pair = (shape.kernel, shape.kernel)
    window = Source((0,), "window", pair, (shape.stride,) * 2, (shape.padding,) * 2)
    steps = [
        Compute(
            name=f"conv.{index}",
            core="depthwise" if shape.groups > 1 else "conv",
            source=views[0],
            operands=(),
            expr=("input", 0),
            channels=(),
            out=views[2],
            map=2,
            gate=ALWAYS,
            window=window,
            active=(window, Source((1,))),
            macs=shape.macs,
            size=shape.out,
            weight=conv.weight.detach().numpy(),
            bias=conv.bias.detach().numpy(),
            groups=shape.groups,
        )
        for index, conv in enumerate(shape.convs)
        if conv.bias is not None
    ]
    ingests = [Ingest(index, True, views[index], index, Gate()) for index in (0, 1)]
    arrays = (("frame", 0), ("frame", 1))
    frames = (shape.frame.shape, (1, 1, *shape.out))
    return Plan(frames, tuple(buffers), tuple(range(len(buffers))), (Segment((*ingests, *steps), arrays, ()),))


def engine_of(plan: Plan, threads: int) -> Engine:
    """A plan of one segment, compiled for this machine."""
    kind, segment = backend("cpu"), plan.segments[0]
    image = assemble(plan, tiles=kind.tiles("cpu", "fp32"))
    code, level = kind.compile("cpu", image)
    parts = (Part(image.calls[0], segment.arrays_in, segment.arrays_out, None),)
    program = Program(
        code=code, level=level, w=image.w, c=image.c, frames=plan.frames, sizes=image.sizes, per_task=image.per_task,
        held_bytes=image.held_bytes, parts=parts, outputs=(), layers=image.layers, structure=["tuple", []],
    )  # fmt: skip
    return Engine(program, threads)


def positions(shape: Convolution, share: float) -> Floats:
    """A second frame with that share of its positions set, at random; at least one."""
    count = shape.out[0] * shape.out[1]
    frame = np.zeros(count, np.float32)
    chosen = np.random.default_rng(1).permutation(count)[: max(1, round(share * count))]
    frame[chosen] = 1
    return frame.reshape(1, 1, *shape.out)


def prepared(shape: Convolution, share: float, threads: int) -> tuple[Stream, Callable[[], None]]:
    """A stream whose active lists hold the positions, and what computes them, again and again.

    All positions are a refresh, as in a stream.
    """
    engine = engine_of(plan_of(shape), threads)
    stream = engine.stream()
    marks = positions(shape, share)
    stream(shape.frame, np.zeros_like(marks))
    if share == 1:
        stream.refresh()
    stream(shape.frame, marks)
    call = engine.program.parts[0].call
    ops = engine.program.c[call.begin : call.begin + call.rows * Column.NUMBERS : Column.NUMBERS]
    rows = np.flatnonzero(ops == Op.COMPUTE)
    nothing = tensor(np.zeros(1, np.float32))
    begin = call.begin + int(rows[0]) * Column.NUMBERS

    def run() -> None:
        use_threads(threads)
        engine.step(*stream._memory, *engine.constants, nothing, nothing, begin, len(rows), 0, 0, threads)

    return stream, run
