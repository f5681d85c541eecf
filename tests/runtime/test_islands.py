"""Dense islands: right wherever they stand, and run only when an input changed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.options import Hold
from skipfx.runtime.islands import IslandRunner
from tests.networks import Frames, Squeeze, moving_clip, seeded
from tests.runtime.check import Net, assert_agrees, compiled

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


def head(net: Any, x: Tensor) -> dict[str, Tensor]:
    features = F.relu(net.conv(x))
    scores = net.linear(features.mean((2, 3)))
    return {"scores": scores, "best": scores.argmax(1), "map": features}


NETWORKS: dict[str, nn.Module] = {
    "squeeze and excite": seeded(Squeeze()),
    "global pool and linear head": Net(head, conv=nn.Conv2d(3, 6, 3), linear=nn.Linear(6, 4)),
    "softmax over the picture": Net(lambda net, x: net.conv(x).flatten(2).softmax(2), conv=nn.Conv2d(3, 2, 3)),
    "attention in the middle": seeded(Attention()),
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


def test_an_island_runs_only_when_an_input_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    call = IslandRunner.__call__

    def counted(self: IslandRunner, inputs: list[Any]) -> Any:
        runs.append(1)
        return call(self, inputs)

    monkeypatch.setattr(IslandRunner, "__call__", counted)
    clip: list[Frames] = [CLIP[0], CLIP[0], CLIP[1], CLIP[1], CLIP[1]]
    stream = compiled(NETWORKS["global pool and linear head"], CLIP[0], Hold(threshold=0.01))[1].stream()
    found = []
    for frames in clip:
        stream(*frames)
        found.append(len(runs))
    assert found == [1, 1, 2, 2, 2]


def test_reasons_are_given() -> None:
    skip, _ = compiled(NETWORKS["global pool and linear head"], CLIP[0])
    assert all(island.reason for island in skip.report.islands) and skip.report.islands
    assert torch.is_tensor(skip(*CLIP[0], skip.init_state())[0]["best"])
