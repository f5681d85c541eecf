"""The portable lowering computes what the stream graph computes, and less of it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx.errors import CompileError
from skipfx.options import Gate, Gumbel, Hold, InputNorm, OutputNorm
from skipfx.passes.gate_convolutions import is_gate_parameter
from skipfx.passes.portable import Portable, cost, lower_portable, sites
from skipfx.passes.portable.cost import Layer, choose_block
from skipfx.passes.rules import Window
from skipfx.testing import zero_states
from tests.networks import Branches, Frames, Squeeze, TwoFrames, moving_clip, seeded
from tests.passes.test_dynconv import Basic, learned
from tests.runtime.check import MARGIN, Net, margin, noise
from tests.strategies import Sample, samples
from tests.variants import Variants

aten = torch.ops.aten
HOLD = Hold(threshold=0.1, input_threshold=0.1)
REFRESHED = (0, 4)


@pytest.fixture(autouse=True)
def always_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here are so small that no layer would pay."""
    monkeypatch.setattr(cost, "STEP", 0)


def run(module: fx.GraphModule, states: Sequence[Tensor], outputs: int, clip: list[Frames]) -> list[list[Tensor]]:
    found = []
    with torch.no_grad():
        for index, frames in enumerate(clip):
            results = module(*frames, *states, torch.tensor([index in REFRESHED]))
            states = results[outputs : outputs + len(states)]
            found.append([*results[:outputs], *results[outputs + len(states) :]])
    return found


def reference(gm: fx.GraphModule, clip: list[Frames]) -> list[tuple[Tensor, ...]]:
    states: Sequence[Tensor] = zero_states(gm)
    found = []
    with torch.no_grad():
        for index, frames in enumerate(clip):
            outputs, states = gm(*frames, *states, torch.tensor(index in REFRESHED))
            found.append(outputs)
    return found


def check(gm: fx.GraphModule, clip: list[Frames], *, gather: bool = True) -> Portable:
    portable = lower_portable(gm, gather=gather)
    results = run(portable.module, portable.zero_states(), portable.outputs, clip)
    for found, expected in zip(results, reference(gm, clip), strict=True):
        for left, right in zip(found, expected, strict=False):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))
    return portable


def half_shut(gm: fx.GraphModule) -> None:
    """Learned gates that let a part of the clip through."""
    for name, value in gm.named_parameters():
        if is_gate_parameter(name) and "bias" in name:
            value.data.fill_(-1.0)


@pytest.fixture(scope="module", params=[Branches, Squeeze])
def variants(request: pytest.FixtureRequest) -> Variants:
    return Variants(seeded(request.param()), moving_clip(3, 24, 30)[0])


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize(
    "gate",
    [
        HOLD,
        Hold(threshold=0.1, input_threshold=0.1, norm="max", dilation=1),
        InputNorm(eps=0.02),
        InputNorm(eps=0.02, reference="previous"),
        OutputNorm(eps=0.02, p=2),
        Gumbel(),
        Gumbel(reference="previous"),
    ],
    ids=lambda gate: gate.name,
)
def test_every_gate_and_block(variants: Variants, gate: Gate, block: int) -> None:
    clip = moving_clip(3, 24, 30)
    gm = variants.stream(gate, block=block)
    half_shut(gm)
    portable = check(gm, clip)
    assert portable.layers
    check(gm, clip, gather=False)


class Resized(nn.Module):
    """A 1x1 convolution that reads a value twice as large as what it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.across = nn.Conv2d(3, 6, 3, padding=1)
        self.joined = nn.Conv2d(14, 8, 1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(F.silu(self.down(x)), scale_factor=2)
        found: Tensor = self.last(F.silu(self.joined(torch.cat([large, F.silu(self.across(x))], 1))))
        return found


def test_repeated_lines_are_read_where_they_are() -> None:
    clip = moving_clip(3, 24, 30)
    portable = check(Variants(seeded(Resized()), clip[0]).stream(HOLD), clip)
    assert not [node for node in portable.module.graph.nodes if "upsample" in str(node.target)]


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(5, 1, 2),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(nn.AvgPool2d(2), nn.SiLU()),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 8, 1, groups=8)),
    ],
)
def test_pools_are_held_row_by_row(pool: nn.Module, block: int) -> None:
    clip = moving_clip(3, 21, 30)
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), pool, nn.Conv2d(8, 4, 1)))
    portable = check(Variants(model, clip[0]).stream(HOLD, block=block), clip)
    states = [state for state in portable.states if state.source is not None]
    assert {state.layout for state in states[1:]} == {"rows"}  # the first is the frame


def test_pools_on_a_frame() -> None:
    clip = moving_clip(3, 21, 30)
    model = seeded(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)))
    check(Variants(model, clip[0]).stream(HOLD), clip)


def test_layers_that_read_one_position_follow_the_positions_of_what_they_read() -> None:
    clip = moving_clip(3, 24, 30)
    model = seeded(
        nn.Sequential(*(nn.Sequential(nn.Conv2d(c, 8, 1), nn.SiLU()) for c in (3, 8, 8)), nn.Conv2d(8, 4, 1))
    )
    graph = check(Variants(model, clip[0]).stream(HOLD), clip).module.graph
    frame, *others = graph.find_nodes(op="call_function", target=aten.index_copy.default)
    assert len(others) == 3 and all(node.args[0].op == "placeholder" for node in (frame, *others))  # states, no masks
    assert not any(user.op == "call_function" for node in others for user in node.users)  # and no row is read again


class Unheld(nn.Module):
    """Layers to be held or not: behind one value, behind two, behind a window, and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.window, self.both = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.last, self.out = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        first = F.silu(self.first(x))
        both = self.both(torch.cat([F.silu(self.window(F.silu(self.second(first)))), first], 1))
        return self.out(F.relu(self.last(both))), both


@pytest.mark.parametrize(
    "unheld", [["first", "second"], ["first", "both"], ["window"], ["*"], ["stem", "last"]], ids=str
)
def test_layers_that_are_not_held_are_gathered_as_others(unheld: list[str]) -> None:
    clip = moving_clip(3, 24, 30)
    gm = Variants(seeded(Unheld()), clip[0]).stream(HOLD, thresholds=dict.fromkeys(unheld, 0.0))
    portable = check(gm, clip)
    assert len(portable.layers) == 7
    results = run(portable.module, portable.zero_states(), portable.outputs, [*clip, clip[-1]])
    assert not results[-1][-1].any()  # a frame that repeats another


def test_a_layer_that_is_not_held_takes_on_what_the_one_before_it_says() -> None:
    clip = moving_clip(3, 24, 30)
    variants = Variants(seeded(Unheld()), clip[0])
    held, followed = (
        lower_portable(variants.stream(HOLD, thresholds=thresholds)).module.graph
        for thresholds in ({}, {"first": 0.0, "second": 0.0})
    )
    # no tests, and neither lists nor values of what passed them
    for target, fewer in ((aten.mean.dim, 2), (aten.index.Tensor, 4)):
        calls = [len(graph.find_nodes(op="call_function", target=target)) for graph in (held, followed)]
        assert calls[0] - calls[1] == fewer, target


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("hold", [Hold(threshold=0, input_threshold=0), HOLD])
@pytest.mark.parametrize("squeeze", [False, True])
def test_masked_blocks(block: int, hold: Hold, squeeze: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "choose_block", lambda layer, mask_block: block)
    clip = moving_clip(4, 17, 22)
    skip = learned(nn.Sequential(Basic(), Basic(stride=2)), clip[0][0], squeeze, hold)
    portable = check(skip.graph_module, clip)
    assert [layer.block for layer in portable.layers] == [block] * len(portable.layers) and len(portable.layers) >= 4
    results = run(portable.module, portable.zero_states(), portable.outputs, clip)
    shares = torch.stack([found[-1] for found in results]).float().mean(0)
    if block == 1:
        assert (shares < torch.tensor([layer.positions for layer in portable.layers])).any()


def test_residual_updates_are_computed_whole(variants: Variants) -> None:
    check(variants.stream(HOLD, update="residual"), moving_clip(3, 24, 30), gather=False)


def test_a_still_frame_activates_nothing_and_a_refresh_everything(variants: Variants) -> None:
    portable = lower_portable(variants.stream(HOLD))
    frame = moving_clip(3, 24, 30)[0]
    results = run(portable.module, portable.zero_states(), portable.outputs, [frame, frame])
    full, still = results[0][-1], results[1][-1]
    blocks = [-(-24 * 30 // (30 * layer.block)) * -(-30 // layer.block) for layer in portable.layers]
    grid = [layer.positions for layer in portable.layers]
    assert full.tolist() == [b if p == 720 else f for b, p, f in zip(blocks, grid, full.tolist(), strict=True)]
    assert still.tolist() == [0] * len(portable.layers)


def test_two_frames_of_different_sizes() -> None:
    clip: list[Frames] = [
        (a[0], b[0]) for a, b in zip(moving_clip(3, 16, 24), moving_clip(1, 8, 12, seed=1), strict=True)
    ]
    check(Variants(seeded(TwoFrames()), clip[0]).stream(HOLD), clip)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, 3, padding=2, dilation=2),
        nn.Conv2d(3, 6, 5, stride=3, padding=1, groups=3),
        nn.Conv2d(3, 8, (1, 3), padding=(2, 1)),
        nn.Conv2d(3, 8, 6, stride=2, padding=2, bias=False),
    ],
    ids=["dilated", "grouped", "padding beyond the kernel", "strided"],
)
@pytest.mark.parametrize("block", cost.BLOCKS)
def test_windows(conv: nn.Conv2d, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BLOCKS", (block,))
    model = seeded(nn.Sequential(conv, nn.PReLU(conv.out_channels), nn.Conv2d(conv.out_channels, 4, 3, padding=1)))
    clip = moving_clip(3, 60, 67)
    check(Variants(model, clip[0]).stream(HOLD), clip)


@pytest.mark.parametrize("size", [(60, 67), (59, 66), (64, 64)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(6, 2, 2), (3, 2, 1), (7, 2, 3), (3, 2, 0), (2, 2, 0), (4, 4, 0), (7, 4, 2), ((3, 6), 2, (0, 2))],
)
def test_frames_are_folded_for_a_strided_convolution(
    kernel: Any, stride: int, padding: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "SHARE", 0)
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, kernel, stride, padding), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1)))
    clip = moving_clip(3, *size)
    portable = check(Variants(model, clip[0]).stream(HOLD), clip)
    cells = [-(-length // 4) * 4 // stride for length in size]
    assert [state.size for state in portable.states if state.layout == "rows" and state.source is None] == [
        (3 * stride**2, *cells)
    ]


def test_frames_with_several_readers_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SHARE", 0)
    down, across = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 4, 3, stride=2, padding=1)
    model = seeded(Net(lambda m, x: m.down(x) + m.across(x), down=down, across=across))
    clip = moving_clip(3, 24, 30)
    portable = check(Variants(model, clip[0]).stream(HOLD), clip)
    assert portable.layers and all(state.size[0] != 12 for state in portable.states)


@pytest.mark.parametrize("block", [1, 8])
def test_operands_of_every_extent(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that vary over the picture, and maps of a position, row or column that serve the others."""
    monkeypatch.setattr(cost, "BLOCKS", (block,))
    monkeypatch.setattr(cost, "SHARE", 0)  # whatever a layer costs

    def body(m: Any, x: Tensor) -> list[Tensor]:
        y = torch.relu(m.a(x) + m.grid) * m.one
        lines = m.b(y * y.mean(2, keepdim=True) + y.mean(3, keepdim=True))
        scaled = m.b(torch.relu(y.mean((2, 3), keepdim=True) + m.grid))
        return [lines, scaled, m.b(torch.cat([y[:, 1:], m.one], 1) - m.channel)]

    model = Net(body, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, padding=1), grid=noise(8, 24, 1),
                one=noise(1, 1, 24, 30), channel=noise(8, 1, 1))  # fmt: skip
    clip = moving_clip(3, 24, 30)
    portable = check(Variants(model, clip[0]).stream(HOLD), clip)
    assert len(portable.layers) == (4 if block == 1 else 3)  # one map is a column


@given(samples())
def test_random_networks(sample: Sample) -> None:
    gm = Variants(sample.model, sample.clip[0]).stream(HOLD)
    assume(margin(gm, sample.clip) > MARGIN)
    try:
        check(gm, sample.clip)
    except CompileError:  # nothing of it is worth gathering
        check(gm, sample.clip, gather=False)


def test_nothing_held_is_refused(variants: Variants) -> None:
    with pytest.raises(CompileError, match="thresholds are 0"):
        lower_portable(variants.stream(Hold(threshold=0, input_threshold=0)))


def test_nothing_worth_gathering_is_refused(variants: Variants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "STEP", 1e9)
    with pytest.raises(CompileError, match="would gain"):
        lower_portable(variants.stream(HOLD))


def layer(channels: tuple[int, int], size: tuple[int, int], kernel: int, scale: float, planar: bool = False) -> Layer:
    window = Window((kernel, kernel), (1, 1), (kernel // 2,) * 2)
    return Layer(channels, size, window, channels[0] * channels[1] * kernel**2, scale, planar, grouped=False)


def test_frames_are_read_in_blocks_and_maps_of_many_channels_at_single_positions() -> None:
    assert choose_block(layer((3, 16), (432, 768), 3, 1, planar=True), 1) == 8
    assert choose_block(layer((64, 64), (432, 768), 3, 1), 1) == 1
    assert choose_block(layer((128, 128), (15, 20), 3, 32), 1) == 1
    assert choose_block(layer((64, 64), (60, 80), 1, 8), 1) == 1
