"""Weights in the order in which the kernels read them."""

import numpy as np
from numpy.typing import NDArray

from skipfx.runtime.kernels.table import LANES, TAPS

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


def pack_weigh(weight: Floats) -> Floats:
    """[1, C, kh, kw] -> [taps / TAPS, C / LANES, TAPS, LANES], taps and channels filled up."""
    taps = pad_channels(weight.reshape(weight.shape[1], -1).T)
    taps = np.pad(taps, [(0, -len(taps) % TAPS), (0, 0)])
    return np.ascontiguousarray(taps.reshape(-1, TAPS, taps.shape[1] // LANES, LANES).swapaxes(1, 2))


def pack_depthwise(weight: Floats) -> Floats:
    """[C, 1, kh, kw] -> [kh, kw, C], channels filled up."""
    return pad_channels(np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)))
