"""Where things lie in a stream's memory, what is reported of it, and how weights are packed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipfx.options import Hold
from skipfx.passes.lower import lower
from skipfx.plan import Buffer, Compute, Ingest, Plan
from skipfx.runtime.assemble import Assembler
from skipfx.runtime.image import origin, pitch, positions
from skipfx.runtime.kernels.table import LANES, SCRATCH, TILE, Column, Core, Op, Tile
from skipfx.runtime.pack import pack_conv, pack_depthwise, pad_channels
from skipfx.transformation import transform
from tests.networks import Branches, Squeeze, TwoFrames, seeded
from tests.runtime.check import Net, compiled, noise

K = Column
NETWORKS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "local": (seeded(Branches()), (noise(1, 3, 12, 16),)),
    "island": (seeded(Squeeze()), (noise(1, 3, 7, 9),)),
    "two frames": (seeded(TwoFrames()), (noise(1, 3, 8, 10), noise(1, 1, 4, 5))),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def assembled(name: str) -> tuple[Plan, Assembler, Any]:
    model, frames = NETWORKS[name]
    plan = lower(transform(model, frames, gate=Hold(threshold=0.1)).graph_module)
    assembler = Assembler(plan, 1.0, [Tile(6, 1)])
    return plan, assembler, assembler.assemble()


@pytest.mark.parametrize("buffer", [Buffer(1, 1, 3, 0), Buffer(1, 7, 1, 3), Buffer(5, 3, 17, 1), Buffer(4, 6, 2, 8)])
def test_a_picture_has_a_border_on_every_side(buffer: Buffer) -> None:
    """Rows share their borders, yet a window that reaches `border` positions out of the picture finds none of it."""
    inside = {origin(buffer) + y * pitch(buffer) + x for y in range(buffer.height) for x in range(buffer.width)}
    assert len(inside) == buffer.height * buffer.width
    for y in range(-buffer.border, buffer.height + buffer.border):
        for x in range(-buffer.border, buffer.width + buffer.border):
            at = origin(buffer) + y * pitch(buffer) + x
            assert 0 <= at < positions(buffer)
            assert (at in inside) == (0 <= y < buffer.height and 0 <= x < buffer.width)


@networks
def test_borders_are_as_wide_as_windows_reach(name: str) -> None:
    plan, _, _ = assembled(name)
    for segment in plan.segments:
        for step in segment.steps:
            if not isinstance(step, Compute) or step.source is None or step.active[0].kind != "window":
                continue
            window, buffer = step.active[0], plan.buffers[step.source.buffer]
            for axis, extent in enumerate((buffer.height, buffer.width)):
                last = (step.size[axis] - 1) * window.stride[axis] - window.padding[axis]
                last += (window.kernel[axis] - 1) * window.dilation[axis]
                assert window.padding[axis] <= buffer.border
                assert last < extent + buffer.border


@networks
def test_nothing_overlaps(name: str) -> None:
    plan, assembler, image = assembled(name)
    memory = assembler.memory
    buffers = [positions(buffer) * buffer.channels for buffer in plan.buffers]
    _assert_apart([*zip(memory.buffer_at, buffers, strict=True)], image.sizes[0], align=LANES)
    maps = [(start, positions(plan.buffers[of])) for start, of in zip(memory.map_at, plan.maps, strict=True)]
    flags = [(start, plan.buffers[of].height) for start, of in zip(memory.flags_at, plan.maps, strict=True)]
    _assert_apart([*maps, *flags], image.sizes[1], align=64)
    lists = {(int(row[K.LIST]), int(row[K.HEIGHT] * row[K.WIDTH])) for row in assembler.rows if row[K.OP] == Op.LIST}
    _assert_apart(sorted(lists), image.sizes[3], align=1)


def _assert_apart(areas: list[tuple[Any, Any]], size: int, align: int) -> None:
    end = 0
    for start, length in sorted(areas):
        assert start % align == 0
        assert start >= end
        end = start + length
    assert end <= size


@networks
def test_weights_start_on_a_vector(name: str) -> None:
    _, assembler, image = assembled(name)
    for row in assembler.rows:
        if row[K.OP] == Op.COMPUTE and row[K.CORE] >= 0:
            if image.cores[row[K.CORE]][0] not in (Core.CONV, Core.DEPTHWISE):
                continue
            assert row[K.WEIGHT] % LANES == row[K.BIAS] % LANES == 0
            assert row[K.WEIGHT] != row[K.BIAS]
            assert max(row[K.WEIGHT], row[K.BIAS]) < image.w.size


@networks
def test_reported_bytes_are_those_of_a_stream(name: str) -> None:
    """`state_bytes` is what a stream allocates apart from its outputs; `held_bytes` the maps in it."""
    model, frames = NETWORKS[name]
    for threads in (1, 3):
        _, engine = compiled(model, frames, threads=threads)
        stream = engine.stream()
        arrays = (stream._a, stream._m, stream._s, stream._q, stream._n)
        assert engine.state_bytes == sum(array.nbytes for array in arrays)
        assert all(array.ctypes.data % 64 == 0 for array in arrays)
        assert 0 < engine.program.held_bytes < engine.state_bytes
    plan = lower(transform(model, frames, gate=Hold(threshold=0.1)).graph_module)
    values = [step.out for segment in plan.segments for step in segment.steps if isinstance(step, Ingest | Compute)]
    expected = sum(4 * plan.buffers[v.buffer].height * plan.buffers[v.buffer].width * v.channels for v in values)
    assert engine.program.held_bytes == expected


def test_a_refresh_runs_simple_ends_in_the_convolution() -> None:
    """One kernel for each pair of a core and an end that is simple, and none for others."""
    body = lambda m, x: [torch.relu(m.a(x)), torch.relu(m.b(x)), torch.nn.functional.silu(m.c(x)), m.d(x)]  # noqa: E731
    net = Net(body, **{name: nn.Conv2d(3, 4, 3) for name in "abcd"})
    plan = lower(transform(net, (noise(1, 3, 6, 7),), gate=Hold(threshold=0.1)).graph_module)
    assembler = Assembler(plan, 1.0, [Tile(6, 1)])
    image = assembler.assemble()
    rows = [row for row in assembler.rows if row[K.OP] == Op.COMPUTE]
    a, b, c, d = (int(row[K.FUSED]) for row in rows)
    assert a == b != d
    assert c == -1
    for row in (rows[0], rows[3]):
        assert image.fused[row[K.FUSED]] == (row[K.CORE], row[K.EPILOGUE], True, False)


def test_large_weights_serve_more_positions() -> None:
    """Scratch holds a few tiles at a time, and a whole map where weights are too many to be read again and again."""
    net = Net(lambda m, x: [m.light(x), m.heavy(x)], light=nn.Conv2d(512, 256, 1), heavy=nn.Conv2d(512, 256, 3))
    plan = lower(transform(net, (noise(1, 512, 10, 10),), gate=Hold(threshold=0.1)).graph_module)
    assembler = Assembler(plan, 1.0, [Tile(12, 2)])
    assembler.assemble()
    light, heavy = (row for row in assembler.rows if row[K.OP] == Op.COMPUTE)
    assert light[K.SCRATCH_PITCH] == heavy[K.SCRATCH_PITCH] == 256
    assert light[K.CHUNK] == SCRATCH // (TILE * 256)
    assert heavy[K.CHUNK] == -(-8 * 8 // TILE) > light[K.CHUNK]


def test_layers_with_the_same_window_share_a_list() -> None:
    net = Net(lambda m, x: [m.a(x), m.b(x), m.c(x)], a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(3, 5, 3), c=nn.Conv2d(3, 5, 1))
    _, engine = compiled(net, (noise(1, 3, 6, 7),))
    a, b, c = engine.program.layers
    assert (a.list, a.counts) == (b.list, b.counts)
    assert a.list != c.list


@pytest.mark.parametrize(
    ("out", "channels", "groups", "vectors"), [(1, 1, 1, 1), (16, 3, 1, 1), (33, 5, 1, 3), (6, 4, 2, 1), (51, 6, 3, 2)]
)
def test_packed_convolution(out: int, channels: int, groups: int, vectors: int) -> None:
    """[groups, panels, kh, kw, channels, panel], zeros where a panel is not full."""
    weight = noise(out, channels // groups, 2, 3).numpy()
    bias = noise(out, seed=1).numpy()
    packed, packed_bias = pack_conv(weight, bias, groups, vectors)
    per_group, panel = out // groups, vectors * LANES
    panels = -(-per_group // panel)
    expected = np.zeros((groups, panels, 2, 3, channels // groups, panel), np.float32)
    expected_bias = np.zeros((groups, panels * panel), np.float32)
    for o in range(out):
        group, place = divmod(o, per_group)
        expected[group, place // panel, :, :, :, place % panel] = weight[o].transpose(1, 2, 0)
        expected_bias[group, place] = bias[o]
    assert packed.flags.c_contiguous
    assert np.array_equal(packed, expected)
    assert np.array_equal(packed_bias, expected_bias)


@pytest.mark.parametrize("channels", [2, 16, 33])
def test_packed_depthwise(channels: int) -> None:
    weight = noise(channels, 1, 3, 2).numpy()
    packed = pack_depthwise(weight)
    assert packed.shape == (3, 2, -(-channels // LANES) * LANES)
    for c in range(packed.shape[2]):
        assert np.array_equal(packed[:, :, c], weight[c, 0] if c < channels else np.zeros((3, 2)))


def test_padding_channels_to_a_vector() -> None:
    assert pad_channels(np.ones((2, 16), np.float32)).shape == (2, 16)
    padded = pad_channels(np.ones((2, 17), np.float32))
    assert padded.shape == (2, 32) and padded.sum() == 34


def test_a_stream_of_a_tiny_network_is_tiny() -> None:
    _, engine = compiled(Net(lambda m, x: m.a(x), a=nn.Conv2d(1, 1, 1)), (torch.zeros(1, 1, 2, 2) + torch.eye(2),))
    assert engine.state_bytes < 1 << 18
    assert engine.program.held_bytes == 2 * 4 * 4
