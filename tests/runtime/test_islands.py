"""Dense islands: right wherever they stand, and run only when an input changed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.options import Hold
from skipfx.runtime.islands import IslandRunner
from tests.networks import Frames, Squeeze, moving_clip, seeded
from tests.runtime.check import Net, assert_agrees, assert_same, compiled, flat, noise

CLIP = moving_clip(3, 8, 10, length=5)


class Attention(nn.Module):
    """A transformer layer over the pixels, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        tokens = self.mix(x.flatten(2).transpose(1, 2))
        mixed: Tensor = self.last(tokens.transpose(1, 2).reshape(x.shape))
        return mixed


def chain(net: Any, x: Tensor) -> list[Tensor]:
    """The second island reads what the first computed, and a map that depends on it."""
    first = net.conv(x)
    tokens = first.flatten(2).softmax(2).cumsum(2)
    second = net.conv(first * tokens.mean(2)[:, :, None, None])
    return [second, tokens.amax(2) + second.sum((2, 3)), second.argmax(1)]


def parts(net: Any, x: Tensor) -> list[Tensor]:
    """Islands that read a slice, a concatenation and the frame, and whose results are concatenated and pooled."""
    y = net.conv(x)
    joined = torch.cat([y, x], 1)
    whole = torch.cat([y[:, 2:].cumsum(3), joined.cumsum(2), x.flip(3)], 1)
    return [whole, F.max_pool2d(whole, 3, 1, 1), net.last(whole[:, 3:6]), joined.mean((1, 2, 3)), x.sum()]


def without_rules(net: Any, x: Tensor) -> list[Tensor]:
    """What the sparse region does not know, as real networks have it."""
    y = net.conv(x)
    return [
        net.up(y), F.pixel_shuffle(y, 2), net.groups(y), F.instance_norm(y), F.layer_norm(y, y.shape[1:]),
        F.adaptive_avg_pool2d(y, (3, 2)), F.pad(y, (2, 1, 1, 2), "reflect"), F.pad(y, (1, 2, 0, 1)), y.softmax(1),
        y.argmax(1), F.normalize(y), torch.einsum("bchw,bdhw->bcd", y, y), y.roll(2, 3), y.transpose(2, 3), y > 0.1,
        y.max(1, keepdim=True).values, y.topk(2, 1).indices, y * net.everywhere, y[:, :, 1:-1, ::2], y[:, ::2],
        y.sum((2, 3)).to(torch.float64), torch.where(y > 0, y, -y), (y > 0).sum(), torch.stack([y, -y], 1),
    ]  # fmt: skip


def head(net: Any, x: Tensor) -> dict[str, Tensor]:
    features = F.relu(net.conv(x))
    scores = net.linear(features.std((2, 3)))
    return {"scores": scores, "best": scores.argmax(1), "map": features}


NETWORKS: dict[str, nn.Module] = {
    "squeeze and excite": seeded(Squeeze()),
    "global pool and linear head": Net(head, conv=nn.Conv2d(3, 6, 3), linear=nn.Linear(6, 4)),
    "softmax over the picture": Net(lambda net, x: net.conv(x).flatten(2).softmax(2), conv=nn.Conv2d(3, 2, 3)),
    "attention in the middle": seeded(Attention()),
    "one island after another": Net(chain, conv=nn.Conv2d(3, 3, 3, padding=1)),
    "operators without a rule": Net(
        without_rules,
        conv=nn.Conv2d(3, 8, 3, padding=1),
        up=nn.ConvTranspose2d(8, 3, 3, 2),
        groups=nn.GroupNorm(2, 8),
        everywhere=noise(1, 8, 8, 10),
    ),
    "parts of maps": Net(parts, conv=nn.Conv2d(3, 5, 3, padding=1), last=nn.Conv2d(3, 2, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_island_is_right(name: str) -> None:
    assert_agrees(NETWORKS[name], CLIP, tolerance=1e-4)  # two libraries, two orders of summation


def test_an_excluded_layer_is_an_island() -> None:
    body = lambda net, x: net.last(F.relu(net.middle(net.first(x))))  # noqa: E731
    parts = {name: nn.Conv2d(3, 3, 3, padding=1) for name in ("first", "middle", "last")}
    engine = assert_agrees(Net(body, **parts), CLIP, exclude=("middle",))
    assert [part.island is not None for part in engine.program.parts] == [True, False]
    assert {layer.name for layer in engine.program.layers} == {"first", "last"}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the islands, each time that one runs."""
    names: list[str] = []
    call = IslandRunner.__call__

    def noted(self: IslandRunner, inputs: list[Any]) -> Any:
        names.append(self.island.name)
        return call(self, inputs)

    monkeypatch.setattr(IslandRunner, "__call__", noted)
    return names


@pytest.mark.parametrize("name", ["global pool and linear head", "one island after another"])
def test_an_island_runs_only_when_an_input_changed(name: str, runs: list[str]) -> None:
    clip: list[Frames] = [CLIP[0], CLIP[0], CLIP[1], CLIP[1], CLIP[1]]
    engine = compiled(NETWORKS[name], CLIP[0], Hold(threshold=0.01))[1]
    islands = [part.island.name for part in engine.program.parts if part.island is not None]
    stream, found = engine.stream(), []
    for frames in clip:
        runs.clear()
        stream(*frames)
        found.append(list(runs))
    assert found == [islands, [], islands, [], []]


def test_a_change_below_the_threshold_does_not_reach_an_island(runs: list[str]) -> None:
    frame = CLIP[0][0]
    stream = compiled(NETWORKS["squeeze and excite"], CLIP[0], Hold(threshold=0.1, input_threshold=0.05))[1].stream()
    for moved in (frame, frame + 0.04, frame - 0.04, frame):
        stream(moved)
    assert len(runs) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_goes_with_what_its_islands_made(name: str) -> None:
    engine = compiled(NETWORKS[name], CLIP[0])[1]
    stream, other = engine.stream(), engine.stream()
    stream(*CLIP[0])
    state = stream.state_dict()
    expected = [flat(stream(*frames)) for frames in CLIP[1:3]]
    for frames in reversed(CLIP):
        other(*frames)
    other.load_state_dict(state)
    for frames, want in zip(CLIP[1:3], expected, strict=True):
        assert_same(flat(other(*frames)), want)


def test_a_failure_in_an_island_is_mended_by_the_next_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = compiled(NETWORKS["one island after another"], CLIP[0])[1]
    stream, untouched = engine.stream(), engine.stream()
    stream(*CLIP[0])

    def fail(*_: Any) -> None:
        raise MemoryError("not enough")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(IslandRunner, "__call__", fail)
        stream(*CLIP[1])
    assert_same(flat(stream(*CLIP[2])), flat(untouched(*CLIP[2])))
    assert stream.stats.refreshed


def test_reasons_are_given() -> None:
    skip, _ = compiled(NETWORKS["global pool and linear head"], CLIP[0])
    assert all(island.reason for island in skip.report.islands) and skip.report.islands
    assert torch.is_tensor(skip(*CLIP[0], skip.init_state())[0]["best"])
