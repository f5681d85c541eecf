"""What a convolution costs in ONNX Runtime, and with it: whether to gather, and in blocks of what size.

Measured on one core of an AMD EPYC (Zen 4) with AVX-512 (ONNX Runtime 1.32), in ns; only their proportions matter here:

    MAC         of a convolution of a whole map, or of a matrix product           0.021
    block MAC   of a convolution on gathered blocks                               0.024
    number      read by a gather, written again, and read by what follows         0.35
    piece       that a gather copies: a row, or a single number of a planar map   8
    transposed  number, between rows and the layout that convolutions take        0.2
    converted   number of an input that is computed whole, from rows to planes    1
    held        number of an output that is compared as a whole map               1
    step        a handful of operators for every gathered layer                   30000

A gathered block of b x b positions holds positions that did not change. Where things that move are EXTENT pixels wide
they cover e = EXTENT / (stride of the map) positions, and blocks around them ((e + b) / e)^2 times as many. A
convolution is gathered where that costs less than computing it whole when SHARE of the positions changed.
"""

import math
from dataclasses import dataclass

from skipfx.passes.rules import Window

MAC, BLOCK_MAC, NUMBER, PIECE, TRANSPOSED, CONVERTED, HELD, STEP = 0.021, 0.024, 0.35, 8.0, 0.2, 1.0, 1.0, 30_000.0
EXTENT, SHARE = 64, 0.15
BLOCKS = (1, 4, 8, 16)


@dataclass(frozen=True)
class Layer:
    """What the rule looks at.

    Attributes:
        channels: of the input and of the output.
        size: height and width of the output.
        window: of the convolution.
        macs: per output position.
        scale: input pixels per position of the output, along one axis.
        planar: the input is planar.
        grouped: it has groups, which a matrix product cannot compute.
    """

    channels: tuple[int, int]
    size: tuple[int, int]
    window: Window
    macs: int
    scale: float
    planar: bool
    grouped: bool


def choose_block(layer: Layer, mask_block: int) -> int | None:
    """The side of the blocks to gather; None where computing everything is cheaper.

    Args:
        layer: the convolution.
        mask_block: side of the blocks in which the gate fires anyway.
    """
    height, width = layer.size
    costs = _costs(layer, mask_block)
    best = min(costs, key=lambda b: costs[b], default=None)
    read = 0.0 if layer.planar else layer.channels[0] * CONVERTED * math.prod(layer.window.stride)
    whole = (layer.macs * MAC + layer.channels[1] * HELD + read) * height * width
    if best is None or costs[best] * SHARE * height * width + STEP > whole:
        return None
    return best


def prefers_fold(layer: Layer, folded: Layer, mask_block: int) -> bool:
    """Whether the convolution of a frame is cheaper at single positions of the frame folded by its stride.

    Args:
        layer: the convolution.
        folded: the same on the folded frame.
        mask_block: see `choose_block`.
    """
    return _per_position(folded, 1) < min(_costs(layer, mask_block).values(), default=math.inf)


def _costs(layer: Layer, mask_block: int) -> dict[int, float]:
    """What a changed position costs in blocks of each possible side, in ns."""
    possible = [b for b in BLOCKS if b <= min(layer.size) and not (b == 1 and layer.grouped)]
    if layer.window.kernel == (1, 1):
        possible = [b for b in possible if b == 1] or possible
    return {b: _per_position(layer, b) * _growth(b, mask_block, layer.scale) for b in possible}


def _per_position(layer: Layer, b: int) -> float:
    read = 1.0
    for k, s, d in zip(layer.window.kernel, layer.window.stride, layer.window.dilation, strict=True):
        read *= k if b == 1 else ((b - 1) * s + (k - 1) * d + 1) / b
    numbers = read * layer.channels[0]
    pieces = numbers if layer.planar else read
    transposed = 0.0 if b == 1 else numbers + layer.channels[1]
    mac = MAC if b == 1 else BLOCK_MAC
    return layer.macs * mac + numbers * NUMBER + pieces * PIECE + transposed * TRANSPOSED


def _growth(b: int, mask_block: int, scale: float) -> float:
    if b <= mask_block:
        return 1.0
    extent = EXTENT / scale
    return ((extent + b) / extent) ** 2
