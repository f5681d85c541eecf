"""The gates of Skip-Convolutions on one convolution, in NumPy float64: window by window, as the formulas read."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import nn

from skipfx.options import NormGate, OutputNorm

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """One convolution in NumPy; maps are [C, H, W]."""

    module: nn.Conv2d

    @property
    def weight(self) -> Floats:
        return self.module.weight.detach().double().numpy()

    def size(self, x: Floats) -> tuple[int, int]:
        """Height and width of the output."""
        m = self.module
        spans = [(k - 1) * d + 1 for k, d in zip(m.kernel_size, m.dilation, strict=True)]
        padding = (int(m.padding[0]), int(m.padding[1]))
        height, width = ((x.shape[axis + 1] + 2 * padding[axis] - spans[axis]) // m.stride[axis] + 1 for axis in (0, 1))
        return height, width

    def windows(self, x: Floats) -> Iterator[tuple[tuple[int, int], Floats, tuple[slice, slice]]]:
        """For each output position: the position, the window [C, kh, kw], and where it lies in the padded input."""
        m = self.module
        top, left = int(m.padding[0]), int(m.padding[1])
        padded = np.pad(x, ((0, 0), (top, top), (left, left)))
        height, width = self.size(x)
        for i in range(height):
            for j in range(width):
                rows = slice(
                    i * m.stride[0], i * m.stride[0] + (m.kernel_size[0] - 1) * m.dilation[0] + 1, m.dilation[0]
                )
                cols = slice(
                    j * m.stride[1], j * m.stride[1] + (m.kernel_size[1] - 1) * m.dilation[1] + 1, m.dilation[1]
                )
                yield (i, j), padded[:, rows, cols], (rows, cols)

    def linear(self, x: Floats) -> Floats:
        """The weights times x, without the bias."""
        groups = self.module.groups
        result = np.zeros((self.weight.shape[0], *self.size(x)))
        for (i, j), window, _ in self.windows(x):
            parts = zip(np.split(self.weight, groups), np.split(window, groups), strict=True)
            result[:, i, j] = np.concatenate([np.einsum("ocij,cij->o", w, part) for w, part in parts])
        return result

    def plain(self, x: Floats) -> Floats:
        """With the bias."""
        return self.linear(x) + self.module.bias.detach().double().numpy()[:, None, None]  # type: ignore[union-attr]

    def norm(self, residual: Floats, gate: NormGate) -> Floats:
        """Equation 6, and 7 for the output norm: means over the window and the channels, powers of p."""
        result = np.zeros(self.size(residual))
        for position, window, _ in self.windows(residual):
            result[position] = (np.abs(window) ** gate.p).mean() ** (1 / gate.p)
        if isinstance(gate, OutputNorm):
            total = (np.abs(self.weight) ** gate.p).sum() ** (1 / gate.p)
            result = result * total / self.weight.shape[0] ** (1 / gate.p)
        return result

    def read_by(self, mask: Mask, x: Floats) -> Mask:
        """The input positions that a marked output position reads."""
        top, left = (int(p) for p in self.module.padding)
        read = np.zeros((x.shape[1] + 2 * top, x.shape[2] + 2 * left), bool)
        for position, _, (rows, cols) in self.windows(x):
            read[rows, cols] |= mask[position]
        return read[top : top + x.shape[1], left : left + x.shape[2]]


def blocks(mask: Mask, block: int) -> Mask:
    """A b x b block opens where any of its positions does; partial blocks at the border count."""
    result = mask.copy()
    for i in range(0, mask.shape[0], block):
        for j in range(0, mask.shape[1], block):
            result[i : i + block, j : j + block] = mask[i : i + block, j : j + block].any()
    return result


def previous(layer: Layer, clip: list[Floats], gate: NormGate, block: int, update: str) -> list[Floats]:
    """z_t = z_{t-1} + B_b(g(r_t)) * (w * r_t), r_t = x_t - x_{t-1}; or the plain operator where B is open."""
    results = [layer.plain(clip[0])]
    for before, x in pairwise(clip):
        opened = blocks(layer.norm(x - before, gate) > gate.eps, block)
        new = results[-1] + layer.linear(x - before) if update == "residual" else layer.plain(x)
        results.append(np.where(opened, new, results[-1]))
    return results


def held(layer: Layer, clip: list[Floats], gate: NormGate, block: int) -> list[Floats]:
    """The residual against what was let through; what a shut output has missed is carried on."""
    results, reference = [layer.plain(clip[0])], clip[0]
    carry = np.zeros(results[0].shape[1:])
    for x in clip[1:]:
        opened = blocks(layer.norm(x - reference, gate) + carry > gate.eps, block)
        results.append(np.where(opened, layer.plain(x), results[-1]))
        moved = np.where(layer.read_by(opened, x), x, reference)
        carry = np.where(opened, 0, carry + layer.norm(moved - reference, gate))
        reference = moved
    return results
