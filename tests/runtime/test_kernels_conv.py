"""Convolutions of every geometry equal PyTorch's at random active sets, and only the positions that must run do."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.passes.lower import lower
from skipfx.runtime.assemble import assemble
from skipfx.runtime.kernels.table import FAR, TILE, Core
from skipfx.transformation import transform
from tests.networks import Frames
from tests.runtime.check import Net, assert_agrees, assert_close, assert_same, changing, compiled, flat, reference

KERNELS = [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1)]
SIZES = [(1, 1), (1, 7), (5, 3), (17, 13)]
# channels in and out, groups; the vector width is 16
CHANNELS = [
    (1, 5, 1), (3, 15, 1), (5, 16, 1), (15, 17, 1), (16, 24, 1), (17, 33, 1), (24, 1, 1), (33, 3, 1),
    (16, 24, 2), (24, 34, 2), (5, 5, 5), (33, 33, 33), (16, 16, 16), (3, 9, 3), (17, 34, 17), (33, 15, 3),
    (32, 1, 1), (48, 3, 1), (64, 2, 1),
]  # fmt: skip
DEPTHWISE = (5, 5, 5)
WINDOWS = [(2, 1, 1), (3, 1, 1), (3, 2, 1), (3, 3, 1), (3, 1, 2), (5, 1, 1), (5, 2, 1), (7, 1, 1), (9, 1, 1)]


class Convs(nn.Module):
    """Convolutions side by side, each on a map of the channels that it needs."""

    def __init__(self, convs: list[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.stems = nn.ModuleDict({str(conv.in_channels): nn.Conv2d(3, conv.in_channels, 1) for conv in convs})

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = {channels: stem(x) for channels, stem in self.stems.items()}
        return [conv(maps[str(conv.in_channels)]) for conv in self.convs]


def convs(kernel: tuple[int, int], size: tuple[int, int]) -> Iterator[nn.Conv2d]:
    """Every stride, padding and dilation that fits the size, on channels that vary."""
    fitting = [
        (stride, padding, dilation)
        for stride, padding, dilation in product((1, 2, 3), (0, 1, 2, 3), (1, 2))
        if all(s + 2 * padding > dilation * (k - 1) for s, k in zip(size, kernel, strict=True))
    ]
    first = 5 * KERNELS.index(kernel) + 3 * SIZES.index(size)
    for index, (stride, padding, dilation) in enumerate(fitting):
        taken, given, groups = DEPTHWISE if index == 0 else CHANNELS[(first + index) % len(CHANNELS)]
        yield nn.Conv2d(
            taken, given, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=index % 3 > 0
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_geometry(kernel: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Convs(list(convs(kernel, size))).eval()
    clip = changing((3, *size), seed=1)
    skip, engine = compiled(model, clip[0], threads=1 + SIZES.index(size) % 3)
    stream = engine.stream()
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        assert_close(flat(stream(*frames)), expected, f"at frame {time}")
        if time > 0:
            needed, active = _needed(model, clip[time - 1], frames), stream.active()
            assert needed.keys() == active.keys()
            assert all(np.array_equal(needed[name], active[name]) for name in needed), f"at frame {time}"
            assert stream.stats.layers == pytest.approx({name: found.mean() for name, found in needed.items()})
            assert not stream.stats.refreshed


def _needed(model: Convs, before: Frames, after: Frames) -> dict[str, NDArray[np.bool_]]:
    """Each layer's positions whose window holds a changed pixel."""
    mask = (before[0] != after[0]).any(1, keepdim=True)
    found = {f"stems.{channels}": mask for channels in model.stems}
    for index, conv in enumerate(model.convs):
        assert isinstance(conv, nn.Conv2d)
        window = torch.ones(1, 1, *conv.kernel_size)
        geometry = (conv.stride, conv.padding, conv.dilation)
        found[f"convs.{index}"] = F.conv2d(mask.float(), window, None, *geometry) > 0  # type: ignore[arg-type]
    return {name: reached[0, 0].numpy() for name, reached in found.items()}


def test_unequal_axes() -> None:
    """Stride, padding and dilation of their own per axis; channels of the frame, a run of them, and a map of many."""
    net = Net(
        lambda m, x: [m.a(x), m.b(x[:, 1:4]), m.c(m.a(x)), m.d(x)],
        a=nn.Conv2d(5, 40, (3, 5), (1, 2), (2, 0), (1, 2)),
        b=nn.Conv2d(3, 17, (2, 4), (2, 1), (0, 3), (3, 1)),
        c=nn.Conv2d(40, 3, (4, 1), (3, 1), (3, 2), 1),
        d=nn.Conv2d(5, 5, (1, 2), (1, 3), (0, 1), 1, groups=5),
    )
    assert_agrees(net, changing((5, 11, 14), seed=2))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding(padding: str) -> None:
    net = Net(lambda m, x: [m.even(x), m.odd(x)], even=nn.Conv2d(3, 4, 4, padding=padding),
              odd=nn.Conv2d(3, 4, 3, padding=padding, dilation=2))  # fmt: skip
    assert_agrees(net, changing((3, 9, 8), seed=3))


def test_large_chunks() -> None:
    """More active positions than one chunk of scratch holds, and channels that leave one tile per chunk."""
    net = Net(lambda m, x: m.wide(m.deep(x)), deep=nn.Conv2d(2, 700, 1), wide=nn.Conv2d(700, 2, 3, padding=1))
    assert_agrees(net, changing((2, 40, 37), seed=4))


@pytest.mark.parametrize("given", [16, 32, 48, 80])
def test_every_number_of_positions(given: int) -> None:
    """Lists that end anywhere in a register tile, with panels of one to three vectors; the last frame changes whole."""
    net = Net(lambda m, x: m.conv(x), conv=nn.Conv2d(3, given, (3, 1)))
    frames = [torch.zeros(1, 3, 3, 2 * TILE + 2)]
    for count in range(1, frames[0].shape[3] + 1):
        frames.append(frames[-1].clone())
        frames[-1][..., :count] = count
    engine = assert_agrees(net, [(frame,) for frame in frames])
    stream = engine.stream()
    found = [(stream(frame), stream.stats.layers["conv"])[1] for frame in frames]
    assert found == [1.0, *(count / (2 * TILE + 2) for count in range(1, 2 * TILE + 3))]


def test_few_output_channels() -> None:
    """Vectors along the input channels where that is faster, at 1 to 9 active columns."""
    parts = {
        "one": nn.Conv2d(64, 1, 3, padding=1),
        "run": nn.Conv2d(32, 3, (3, 1), bias=False),
        "point": nn.Conv2d(64, 1, 1),
        "whole": nn.Conv2d(64, 16, 3, padding=1),
        "uneven": nn.Conv2d(24, 1, 3, padding=1),
    }
    net = Net(
        lambda m, x: [m.one(x) * 2, m.run(x[:, 8:40]), F.silu(m.point(x)), m.whole(x), m.uneven(x[:, :24])], **parts
    )
    image = assemble(lower(transform(net.eval(), changing((64, 5, 9))[0]).graph_module))
    assert [core for core, _ in image.cores] == [Core.DOT, Core.CONV]
    clip: list[Frames] = [(torch.zeros(1, 64, 5, 9),)]
    for count in range(1, 10):
        clip.append((clip[-1][0].clone(),))
        clip[-1][0][..., :count] = count
    engine = assert_agrees(net, clip)
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, frames in enumerate(clip):
        assert_same(flat(stream(*frames)), flat(refreshed(*frames)), f"at frame {time}")


@pytest.mark.parametrize(("channels", "far"), [(16, FAR), (48, FAR), (16, 0)])
def test_neighbours_share_what_filters_of_each_channel_read(
    channels: int, far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of any length, one behind the other or apart, give the bits of a refresh; windows of 2 to 9 columns."""
    monkeypatch.setattr("skipfx.runtime.cores.FAR", far)  # 0: a refresh asks for what the next tile reads
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(channels, channels, (3, columns), (1, stride), (1, columns), (1, dilation), channels)
        for columns, stride, dilation in WINDOWS
    ]
    same = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    net = Net(lambda m, x: [m.same(x) + x, *(conv(x) for conv in m.convs)], same=same, convs=nn.ModuleList(convs))
    generator = torch.Generator().manual_seed(1)
    clip: list[Frames] = [(torch.randn(1, channels, 5, 45, generator=generator),)]
    for time in range(20):
        begin, length = (int(torch.randint(high, (1,), generator=generator)) for high in (45, 1 + 2 * time))
        clip.append((clip[-1][0].clone(),))
        clip[-1][0][:, :, time % 5, begin : begin + length] += 1
        clip[-1][0][:, :, 4 - time % 5, ::7] -= 1
    engine = assert_agrees(net, clip)
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, frames in enumerate(clip):
        assert_same(flat(stream(*frames)), flat(refreshed(*frames)), f"at frame {time}")
