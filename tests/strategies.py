"""Random small networks for property tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import Frames, moving_clip, seeded

Shape = tuple[int, int, int]
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (F.relu, F.silu, F.hardswish, torch.tanh, F.gelu, F.elu)
MAX_CHANNELS = 12
SIZES = st.integers(1, 13)  # of a map
FOUND = settings(phases=(Phase.generate,))  # an example is small as it is
FEW = settings(FOUND, max_examples=3)


@dataclass
class Sample:
    """A network and a clip for it."""

    model: nn.Module
    clip: list[Frames]


@dataclass
class _Plan:
    """The network so far: the shapes of its values, and how each comes from those before it."""

    shapes: list[Shape]
    steps: list[Callable[[list[Tensor]], Tensor]] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    read: set[int] = field(default_factory=set)

    def add(self, step: Callable[[list[Tensor]], Tensor], *sources: int) -> None:
        """Adds a step that reads the given values."""
        self.read.update(sources)
        with torch.no_grad():
            values = [torch.zeros(1, *shape) for shape in self.shapes]
            _, channels, height, width = step(values).shape
            self.shapes.append((channels, height, width))
        self.steps.append(step)


class _Network(nn.Module):
    def __init__(self, plan: _Plan, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(plan.modules)
        self.steps, self.outputs = plan.steps, outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for step in self.steps:
            values.append(step(values))
        return tuple(values[index] for index in self.outputs)


@st.composite
def samples(draw: st.DrawFn, islands: bool = True) -> Sample:
    """A random network of convolutions and what stands between them, and a clip of moving things.

    Args:
        draw: of hypothesis.
        islands: whether scales by the contrast of the whole picture, which are islands, may be in it.
    """
    first = (draw(st.integers(1, 3)), draw(st.integers(5, 13)), draw(st.integers(5, 13)))
    plan = _Plan([first])
    _conv(draw, plan)
    kinds = [_conv, _conv, _add, _cat, _pool, _upsample, _slice, _activate, _squeeze]
    kinds += [_move, _reduce, _transpose]
    kinds += [_contrast] if islands else []
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(kinds))(draw, plan)
    leaves = set(range(1, len(plan.shapes))) - plan.read  # nothing is dead code
    leaves |= draw(st.sets(st.integers(1, len(plan.shapes) - 1), max_size=1))
    model = seeded(_Network(plan, tuple(sorted(leaves))), draw(st.integers(0, 99)))
    noise = draw(st.sampled_from([0.0, 0.05, 0.4]))
    return Sample(model, moving_clip(*first, length=5, seed=draw(st.integers(0, 99)), noise=noise))


@st.composite
def changes(draw: st.DrawFn, *shapes: Shape, length: int = 4) -> list[Frames]:
    """A clip of which each frame changes at a set of positions of its own: none, some, a rectangle, all."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    clip: list[Frames] = [tuple(torch.randn(1, *shape, generator=generator) for shape in shapes)]
    for share in draw(st.lists(st.sampled_from([0.0, 0.03, 0.3, 1.0]), min_size=length, max_size=length)):
        in_rectangle, frames = draw(st.booleans()), []
        for shape, before in zip(shapes, clip[-1], strict=True):
            marked = torch.rand(shape[1:], generator=generator) < share
            if in_rectangle:
                rows, columns = (torch.rand(size, generator=generator).argsort() < share * size for size in shape[1:])
                marked = rows.sort()[0][:, None] & columns.sort()[0]
            frames.append(torch.where(marked, torch.randn(before.shape, generator=generator), before))
        clip.append(tuple(frames))
    return clip


def _source(draw: st.DrawFn, plan: _Plan) -> int:
    """A value so far, the latest ones more often."""
    return max(draw(st.integers(0, len(plan.shapes) - 1)), draw(st.integers(0, len(plan.shapes) - 1)))


def _conv(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    channels, height, width = plan.shapes[source]
    kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
    dilation = draw(st.integers(1, 2)) if (max(kernel) - 1) * 2 < min(height, width) else 1
    depthwise = draw(st.booleans())
    module = nn.Conv2d(
        channels,
        channels if depthwise else draw(st.integers(1, 6)),
        kernel,
        stride=draw(st.integers(1, 2)),
        padding=(draw(st.integers(0, kernel[0])), draw(st.integers(0, kernel[1]))),
        dilation=dilation,
        groups=channels if depthwise else 1,
        bias=draw(st.booleans()),
    )
    plan.modules.append(module)
    chain: list[Callable[[Tensor], Tensor]] = [module]
    if draw(st.booleans()):
        norm = nn.BatchNorm2d(module.out_channels).eval()
        plan.modules.append(norm)
        chain.append(norm)
    chain.append(draw(st.sampled_from(ACTIVATIONS)))
    plan.add(lambda values: _through(chain, values[source]), source)


def _through(chain: list[Callable[[Tensor], Tensor]], value: Tensor) -> Tensor:
    for function in chain:
        value = function(value)
    return value


def _activate(draw: st.DrawFn, plan: _Plan) -> None:
    source, function = _source(draw, plan), draw(st.sampled_from(ACTIVATIONS))
    plan.add(lambda values: function(values[source]) * 0.5, source)


def _partner(draw: st.DrawFn, plan: _Plan, source: int, channels: bool) -> int:
    """A value of the same height and width (and channels) as the source; the source itself if need be."""
    start = 0 if channels else 1
    alike = [index for index, shape in enumerate(plan.shapes) if shape[start:] == plan.shapes[source][start:]]
    return draw(st.sampled_from(alike))


def _add(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    other = _partner(draw, plan, source, channels=True)
    plan.add(lambda values: values[source] + values[other], source, other)


def _cat(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    other = _partner(draw, plan, source, channels=False)
    if plan.shapes[source][0] + plan.shapes[other][0] <= MAX_CHANNELS:
        plan.add(lambda values: torch.cat([values[source], values[other]], 1), source, other)


def _pool(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    size = draw(st.integers(1, min(3, *plan.shapes[source][1:])))
    function: Any = F.avg_pool2d if draw(st.booleans()) else F.max_pool2d
    stride, padding, ceil = draw(st.integers(1, 2)), draw(st.integers(0, size // 2)), draw(st.booleans())
    plan.add(lambda values: function(values[source], size, stride, padding, ceil_mode=ceil), source)


def _upsample(draw: st.DrawFn, plan: _Plan) -> None:
    source, mode = _source(draw, plan), draw(st.sampled_from(["nearest", "bilinear"]))
    if max(plan.shapes[source][1:]) <= 16:
        plan.add(lambda values: F.interpolate(values[source], scale_factor=2, mode=mode), source)


def _slice(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    start = draw(st.integers(0, plan.shapes[source][0] - 1))
    plan.add(lambda values: values[source][:, start:], source)


def _squeeze(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    plan.add(lambda values: values[source] * torch.sigmoid(values[source].mean((2, 3), keepdim=True)), source)


def _move(draw: st.DrawFn, plan: _Plan) -> None:
    """Values change places: pads, flips, shuffles, strided slices."""
    source = _source(draw, plan)
    moves: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
        lambda x: F.pad(x, (0, 1, 2, 0), value=0.5),
        lambda x: x.flip(1, 3),
        lambda x: x.roll(1, 2),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.repeat_interleave(2, 1)[:, :MAX_CHANNELS],
    ]
    move = draw(st.sampled_from(moves))
    if min(plan.shapes[source][1:]) > 1:
        plan.add(lambda values: move(values[source]), source)


def _reduce(draw: st.DrawFn, plan: _Plan) -> None:
    """Over the channels of a position."""
    source = _source(draw, plan)
    reductions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.softmax(1),
        lambda x: x.amax(1, keepdim=True),
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=0.1).permute(0, 3, 1, 2),
    ]
    reduction = draw(st.sampled_from(reductions))
    plan.add(lambda values: reduction(values[source]), source)


def _transpose(draw: st.DrawFn, plan: _Plan) -> None:
    source, kernel = _source(draw, plan), draw(st.integers(1, 4))
    module = nn.ConvTranspose2d(plan.shapes[source][0], draw(st.integers(1, 4)), kernel, draw(st.integers(1, 2)))
    if max(plan.shapes[source][1:]) <= 16:
        plan.modules.append(module)
        plan.add(lambda values: module(values[source]), source)


def _contrast(draw: st.DrawFn, plan: _Plan) -> None:
    source = _source(draw, plan)
    plan.add(lambda values: values[source] * torch.sigmoid(values[source].std((2, 3), keepdim=True)), source)
