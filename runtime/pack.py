"""Weights in the order in which the kernels read them."""

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import CompileError
from skipfx.runtime.kernels.table import CHUNK, LANES, TAPS, Precision

Floats = NDArray[np.float32]


def pad_channels(values: Floats) -> Floats:
    """[..., C] with C filled up with zeros to a multiple of LANES."""
    spare = -values.shape[-1] % LANES
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, spare)])


def pack_conv(weight: Floats, bias: Floats, groups: int, vectors: int) -> tuple[Floats, Floats]:
    """Packs a convolution; a panel is `vectors` x LANES output channels.

    weight [C_out, C_in / groups, kh, kw] -> [groups, panels, kh, kw, C_in / groups, panel];
    bias [C_out] -> [groups, panels, panel].
    """
    out, per_group, kernel_h, kernel_w = weight.shape
    grouped = pad_channels(
        weight.reshape(groups, out // groups, per_group, kernel_h, kernel_w).transpose(0, 3, 4, 2, 1)
    )
    panels = grouped.reshape(groups, kernel_h, kernel_w, per_group, -1, vectors * LANES).transpose(0, 4, 1, 2, 3, 5)
    return np.ascontiguousarray(panels), pad_channels(bias.reshape(groups, -1))


def pack_chunks(packed: Floats, run: int, precision: Precision) -> Floats:
    """The panels of `pack_conv` for a GPU: `run` input channels after the other, filled up to whole chunks.

    [groups, panels, kh, kw, C_in / groups, LANES] -> [groups, panels, taps, chunks, CHUNK, LANES] in float32, and
    [.., LANES, CHUNK] in the other precisions, those of 16 bits in pairs.
    """
    groups, panels = packed.shape[:2]
    taps = packed.reshape(groups, panels, -1, run, LANES)
    taps = np.pad(taps, [(0, 0)] * 3 + [(0, -run % CHUNK), (0, 0)])
    chunks = taps.reshape(groups, panels, taps.shape[2], -1, CHUNK, LANES)
    return chunks if precision == "fp32" else rounded(chunks.swapaxes(-1, -2), precision)


def rounded(values: Floats, precision: Precision) -> Floats:
    """Values in TF32, fp16 or bf16, to nearest; those of 16 bits in pairs, the first in the lower half of a word.

    Raises:
        CompileError: a value is too large for fp16.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if precision == "tf32":  # ties away from zero, as `cvt.rna.tf32`
        return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
    if precision == "bf16":  # ties to even
        return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.float32)
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(values, np.float16)
    if not np.isfinite(halves).all():
        raise CompileError(
            f"a weight of {np.abs(values).max():g} is beyond the range of fp16, 65504: use precision='bf16'"
        )
    return halves.view(np.float32)


def pack_weigh(weight: Floats) -> Floats:
    """[1, C, kh, kw] -> [taps / TAPS, C / LANES, TAPS, LANES], taps and channels filled up."""
    taps = pad_channels(weight.reshape(weight.shape[1], -1).T)
    taps = np.pad(taps, [(0, -len(taps) % TAPS), (0, 0)])
    return np.ascontiguousarray(taps.reshape(-1, TAPS, taps.shape[1] // LANES, LANES).swapaxes(1, 2))


def pack_dot(weight: Floats) -> Floats:
    """[C_out, C_in, kh, kw] -> [C_out, kh, kw, C_in]."""
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1))


def pack_depthwise(weight: Floats) -> Floats:
    """[C, 1, kh, kw] -> [kh, kw, C], channels filled up."""
    return pad_channels(np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)))
