"""Thresholds under which a stream does what is asked of it, on a clip."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat

import numpy as np

from skipfx.bench.compare import WARMUP, Clip
from skipfx.runtime.engine import Program
from skipfx.runtime.kernels.table import Column, Op
from skipfx.runtime.onnx_engine import OnnxProgram

LOWEST, HIGHEST, STEPS = 2.0**-8, 2.0**5, 9  # of a search, whose steps halve the exponent's range
INPUT_SHARES = (1.0, 0.25, 0.0)  # of the input threshold; the first that lets enough of the clip through is taken


def with_thresholds(program: Program, threshold: float | Sequence[float], input_threshold: float) -> Program:
    """A program of which all thresholds are 1, with others; nothing is compiled again.

    Args:
        program: the program.
        threshold: of all values that are held, or of each of them, in the order of the network.
        input_threshold: of the frames.
    """
    w, thresholds = program.w.copy(), repeat(threshold) if isinstance(threshold, float | int) else iter(threshold)
    for part in program.parts:
        end = part.call.begin + part.call.rows * Column.NUMBERS
        for row in program.c[part.call.begin : end].reshape(-1, Column.NUMBERS):
            at = row[Column.THRESHOLD]
            if row[Column.OP] in (Op.COMPARE, Op.COMPUTE) and program.w[at]:
                factor = input_threshold if row[Column.FINITE] else next(thresholds)
                w[at : at + 2] *= (factor, factor**2)
    return replace(program, w=w)


def largest(accepted: Callable[[float], bool]) -> float:
    """The largest threshold that is accepted, as smaller ones are; LOWEST where none is."""
    low, high = np.log2(LOWEST), np.log2(HIGHEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if accepted(2.0**middle) else (low, middle)
    return float(2.0**low)


def mean_active(program: Program | OnnxProgram, clip: Clip) -> float:
    """Share of the multiply-accumulates that a stream computes, over the frames of a clip that count."""
    stream, shares = program.open(None).stream(), []
    for frames in clip:
        stream(*frames)
        shares.append(stream.stats.active_fraction)
    return float(np.mean(shares[WARMUP:]))


def search(program: Program, clip: Clip, target: float, input_threshold: float) -> tuple[float, float]:
    """The largest threshold at which a share of the multiply-accumulates is active, and the input threshold with it.

    Args:
        program: of which all thresholds are 1.
        clip: what the stream sees.
        target: the share, between 0 and 1.
        input_threshold: lowered where it hides so much that the share cannot be reached.
    """
    for share in INPUT_SHARES:
        pixel = share * input_threshold
        if mean_active(with_thresholds(program, LOWEST, pixel), clip) >= target:
            break
    return largest(lambda one: mean_active(with_thresholds(program, one, pixel), clip) >= target), pixel
