"""The benchmark of kernels times what it says: the convolution, at the positions that are asked for."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.convolutions import SHAPES, Convolution
from benchmarks.kernel_step import positions, prepared
from benchmarks.kernels import figures
from skipfx.bench.timing import Timing
from skipfx.runtime import Stream
from skipfx.runtime.kernels.table import Column

SMALL = [
    Convolution("small", 3, 2, 3, 20, 12, 9),
    Convolution("small", 5, 1, 18, 18, 7, 8, groups=18),
    Convolution("small", 1, 1, 4, 8, 1, 1),
]


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_step_computes_the_positions_that_it_says(shape: Convolution, share: float) -> None:
    stream, run = prepared(shape, share, threads=1)
    marks = positions(shape, share)[0, 0] > 0
    assert all(np.array_equal(active, marks) for active in stream.active().values())
    run()
    with torch.no_grad():
        expected = shape.convs[-1](torch.from_numpy(shape.frame))[0].permute(1, 2, 0).numpy()
    output = _last_output(stream, expected.size).reshape(expected.shape)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    output[:] = 0
    run()
    assert np.array_equal(output.any(-1), marks)


def _last_output(stream: Stream, size: int) -> NDArray[np.float32]:
    """The map that the last row writes, which has no border."""
    call = stream.engine.program.parts[0].call
    row = stream.engine.program.c[call.begin : call.begin + call.rows * Column.NUMBERS][-Column.NUMBERS :]
    return stream._a[row[Column.OUT] : row[Column.OUT] + size]


def test_shapes_cover_what_networks_hold() -> None:
    assert len(SHAPES) >= 30 and len({shape.name for shape in SHAPES}) == len(SHAPES)
    assert {1, 3, 5, 7} <= {shape.kernel for shape in SHAPES}
    assert {1, 4, 7, 8, 16} <= {shape.width for shape in SHAPES}
    assert any(shape.groups == shape.taken for shape in SHAPES) and any(shape.stride == 2 for shape in SHAPES)


def test_rates_are_per_active_position() -> None:
    """A sparse step that takes as long per position has a rate of 1."""
    shape = Convolution("small", 1, 1, 4, 8, 10, 10)
    seconds = {"torch": 2.0, "openvino": 1.5, "skipfx 100 %": 1.0, "skipfx 5 %": 0.05, "skipfx 1 %": 0.02}
    found = figures([shape], [{name: Timing(((value,),)) for name, value in seconds.items()}])
    one = found["shapes"][0]
    assert one["fastest"] == "openvino" and one["faster"]["median"] == 1.5
    assert one["skipfx 5 %"]["median"] == pytest.approx(1.0)
    assert one["skipfx 1 %"]["median"] == pytest.approx(0.5)
    assert found["summary"]["skipfx 1 %"]["worst"] == pytest.approx(0.5)
