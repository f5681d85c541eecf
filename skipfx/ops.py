"""The few functions that skipfx puts into a graph beside ATen operators, in plain PyTorch.

Each is one node, so that a graph stays readable and a pass or a lowering can find it; each is a composition of ATen
operators, so that it is differentiable and exports. Feature maps are [B, C, H, W], masks [B, 1, H, W] of bool.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


def distance(new: Tensor, old: Tensor, norm: str) -> Tensor:
    """N(new - old), the RMS ("rms") or the maximum ("max") over the channels. [B, 1, H, W]."""
    delta = new - old
    if norm == "rms":
        return delta.square().mean(1, keepdim=True).sqrt()
    return delta.abs().amax(1, keepdim=True)


def changed(new: Tensor, old: Tensor, threshold: float, norm: str) -> Tensor:
    """Positions where N(new - old) > threshold, strictly. [B, 1, H, W]."""
    return distance(new, old, norm) > threshold


def dilate(mask: Tensor, size: int) -> Tensor:
    """Marks the size x size neighbourhood of every marked position. [B, 1, H, W]."""
    return F.max_pool2d(mask.float(), size, 1, size // 2) > 0


def block_maximum(values: Tensor, block: int) -> Tensor:
    """The maximum of every block x block, at each of its positions; partial blocks count. [B, 1, H, W]."""
    if block == 1:
        return values
    size = [min(block, length) for length in values.shape[2:]]
    pooled = F.max_pool2d(values, size, block, ceil_mode=True)
    return from_blocks(pooled, block, values.shape[2], values.shape[3])


def from_blocks(blocks: Tensor, block: int, height: int, width: int) -> Tensor:
    """The value of every position's block. [B, 1, ceil(H / b), ceil(W / b)] -> [B, 1, H, W]."""
    return blocks.repeat_interleave(block, 2).repeat_interleave(block, 3)[:, :, :height, :width]


def block_mask(mask: Tensor, block: int) -> Tensor:
    """Opens a block where any of its positions is marked (Skip-Convolutions, section 3.3). [B, 1, H, W]."""
    return block_maximum(mask.float(), block) > 0


def fires(score: Tensor, bias: Tensor, block: int) -> Tensor:
    """Blocks where the logit of a learned gate, score + bias, is positive at any position. [B, 1, H, W].

    So does a trained gate; in training `skipfx.training.gates` puts a noisy, differentiable mask in its place.
    """
    return block_maximum(score + bias, block) > 0


def select(mask: Tensor, new: Tensor, old: Tensor, refresh: Tensor) -> Tensor:
    """`new` where the mask is set or the frame is a refresh, else `old`: the value that every consumer sees.

    A mask of numbers, 0 or 1 as they come in training, hands on its gradient.
    """
    if mask.is_floating_point():
        return torch.where(refresh, new, mask * new + (1 - mask) * old)
    return torch.where(mask | refresh, new, old)


def masked(value: Tensor, mask: Tensor) -> Tensor:
    """`value` where the mask is set, else 0; a mask of numbers hands on its gradient."""
    return value * mask if mask.is_floating_point() else torch.where(mask, value, torch.zeros_like(value))


def window_norm(residual: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, p: int) -> Tensor:
    """(mean of |r|^p over the kernel window and the channels)^(1/p) at every output position. [B, 1, H_out, W_out].

    Padding counts as zeros. Skip-Convolutions, eq. 6, with a normaliser that depends on the kernel alone.
    """
    power = residual.abs().pow(p).mean(1, keepdim=True)
    window = power.new_full((1, 1, *kernel), 1.0 / (kernel[0] * kernel[1]))
    return F.conv2d(power, window, None, stride, padding, dilation).clamp_min(0).pow(1.0 / p)


def readers(mask: Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """How many marked output positions read each input position. mask [B, 1, H_out, W_out] -> [B, 1, *size]."""
    window = mask.new_ones((1, 1, *kernel), dtype=torch.float32)
    grown = F.conv_transpose2d(mask.float(), window, None, stride, 0, 0, 1, dilation)
    top, left = padding
    grown = F.pad(grown, (0, max(0, left + size[1] - grown.shape[3]), 0, max(0, top + size[0] - grown.shape[2])))
    return grown[:, :, top : top + size[0], left : left + size[1]]


def covered(mask: Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Input positions that any marked output position reads. mask [B, 1, H_out, W_out] -> [B, 1, *size]."""
    return readers(mask, size, kernel, stride, padding, dilation) > 0


def border(x: Tensor, sides: tuple[int, int, int, int], value: float) -> Tensor:
    """Pads with a constant, [left, right, top, bottom]: what the window of the operator behind it takes in."""
    return F.pad(x, sides, value=value)


def rearrange(x: Tensor, steps: tuple[tuple[Any, ...], ...]) -> Tensor:
    """Moves values about: each step is the name of an ATen operator of one tensor, and its other arguments.

    "index_select" takes its indices as numbers, so that steps are plain data.
    """
    for name, *arguments in steps:
        if name == "index_select":
            dim, indices = arguments
            x = x.index_select(dim, torch.tensor(indices, device=x.device))
        else:
            packet, overload = name.split(".")
            x = getattr(getattr(torch.ops.aten, packet), overload)(x, *arguments)
    return x


def channel_norm(x: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the channels of every position (Layer Normalization, eq. 3)."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=eps).movedim(-1, 1)


def channel_argmax(x: Tensor) -> Tensor:
    """The first of the largest channels of every position, as a float. [B, 1, H, W]."""
    return x.argmax(1, keepdim=True).float()


def integer(x: Tensor) -> Tensor:
    """Whole numbers as int64."""
    return x.long()


def compare(left: Tensor | float, right: Tensor | float, how: str) -> Tensor:
    """1.0 where the comparison holds, else 0.0; `how` names it as ATen does: gt, lt, ge, le, eq, ne."""
    found: Tensor = getattr(torch, how)(left, right)
    return found.float()


def choose(condition: Tensor, new: Tensor | float, other: Tensor | float) -> Tensor:
    """`new` where the condition, 1.0 or 0.0, holds, else `other`."""
    return torch.where(condition > 0, new, other)


OPS = (
    changed, dilate, block_mask, fires, select, masked, window_norm, covered,
    border, compare, choose, rearrange, channel_norm, channel_argmax, integer,
)  # fmt: skip
