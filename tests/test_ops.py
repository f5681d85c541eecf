"""The functions that skipfx puts into graphs, against what their documentation says, position by position."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipfx import ops

Pair = tuple[int, int]


def random_mask(height: int, width: int, seed: int, share: float = 0.1) -> torch.Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed)) < share


def test_distance_is_over_the_channels() -> None:
    new, old = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    assert float(ops.distance(new, old, "rms")) == pytest.approx(12.5**0.5)
    assert float(ops.distance(new, old, "max")) == 4


def test_changed_is_strict() -> None:
    new, old = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, 1, 1, 1)
    assert not ops.changed(new, old, 0.5, "max").any() and ops.changed(new, old, 0.499, "rms").all()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5]), st.integers(0, 99))
def test_dilate_marks_neighbourhoods(height: int, width: int, size: int, seed: int) -> None:
    mask = random_mask(height, width, seed)
    expected = np.zeros((height, width), bool)
    for i, j in zip(*np.nonzero(mask[0, 0].numpy()), strict=True):
        expected[max(0, i - size // 2) : i + size // 2 + 1, max(0, j - size // 2) : j + size // 2 + 1] = True
    assert (ops.dilate(mask, size)[0, 0].numpy() == expected).all()


@given(st.integers(1, 19), st.integers(1, 19), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 99))
def test_block_masks_open_whole_blocks(height: int, width: int, block: int, seed: int) -> None:
    mask = random_mask(height, width, seed)
    expected = np.zeros((height, width), bool)
    for i in range(0, height, block):
        for j in range(0, width, block):
            expected[i : i + block, j : j + block] = mask[0, 0, i : i + block, j : j + block].any()
    found = ops.block_mask(mask, block)
    assert found.shape == mask.shape and (found[0, 0].numpy() == expected).all()


def test_select_opens_on_mask_and_refresh() -> None:
    mask = torch.tensor([[[[True, False]]]])
    new, old = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    assert ops.select(mask, new, old, torch.tensor(False)).flatten().tolist() == [1, 0]
    assert ops.select(mask, new, old, torch.tensor(True)).flatten().tolist() == [1, 1]


PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(PAIR, PAIR, st.tuples(st.integers(0, 2), st.integers(0, 2)), PAIR, st.integers(0, 99))
def test_covered_is_the_transpose_of_reading(
    kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, seed: int
) -> None:
    size = (7, 9)
    out = tuple(
        (size[axis] + 2 * padding[axis] - (kernel[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    mask = random_mask(out[0], out[1], seed, 0.3)
    expected = np.zeros(size, bool)
    for i, j in zip(*np.nonzero(mask[0, 0].numpy()), strict=True):
        for a in range(kernel[0]):
            for b in range(kernel[1]):
                row = i * stride[0] - padding[0] + a * dilation[0]
                column = j * stride[1] - padding[1] + b * dilation[1]
                if 0 <= row < size[0] and 0 <= column < size[1]:
                    expected[row, column] = True
    assert (ops.covered(mask, size, kernel, stride, padding, dilation)[0, 0].numpy() == expected).all()
