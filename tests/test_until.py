"""Cutting models before an end that cannot be captured, or need not be."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipfx.adapt import adapt
from skipfx.errors import CaptureError, OptionError
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded

((FRAME,), *_) = moving_clip(3, 8, 10)


class Heads(nn.Module):
    """Two maps from one head; what comes after is up to the subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.down = nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Conv2d(4, 5, 1)

    def maps(self, x: Tensor) -> list[Tensor]:
        fine = self.body(x)
        return [self.head(fine), self.head(self.down(fine))]


class Plain(Heads):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([m.flatten(2) for m in self.maps(x)], 2)


class Branches(Heads):
    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.maps(x)
        return fine if fine.max() > 0 else coarse


class Suppresses(Heads):
    """A loop over detections, as in non-maximum suppression."""

    def forward(self, x: Tensor) -> Tensor:
        boxes = torch.cat([m.flatten(2) for m in self.maps(x)], 2)[0].T
        kept: list[Tensor] = []
        for index in boxes[:, 4].argsort().tolist():
            if all(float((boxes[index] - other).abs().sum()) > 0.1 for other in kept):
                kept.append(boxes[index])
        return torch.stack(kept)


class LeavesTorch(Heads):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.maps(x)[1].detach().numpy())


@pytest.mark.parametrize("model", [Plain, Branches, Suppresses, LeavesTorch])
def test_a_module_is_cut_whatever_comes_after(model: type[Heads]) -> None:
    net = seeded(model())
    assert isinstance(net, Heads)
    found = adapt(net, (FRAME,), until=["head"])
    assert found.notes == ("cut behind head",)
    assert all(torch.equal(*pair) for pair in zip(found.program.module()(FRAME), net.maps(FRAME), strict=True))
    assert not any("forward" in vars(module) for module in net.modules())


def test_one_value_is_no_list_and_several_come_in_order() -> None:
    net = seeded(Plain())
    one, two = (adapt(net, (FRAME,), until=names).program.module()(FRAME) for names in (["down"], ["down", "body"]))
    body = net.get_submodule("body")(FRAME)
    assert torch.equal(one, net.get_submodule("down")(body))
    assert torch.equal(two[0], body) and torch.equal(two[1], one)


def test_what_is_left_out_is_not_in_the_graph() -> None:
    skip = transform(seeded(Plain()), (FRAME,), until="down")
    assert [layer.name for layer in skip.report.layers] == ["body.0", "body.1", "down"] and not skip.report.islands


@pytest.mark.parametrize("name", ["head", "conv2d_3"])
def test_a_saved_program_is_cut_in_its_graph(name: str) -> None:
    net = seeded(Plain())
    assert isinstance(net, Heads)
    found = adapt(torch.export.export(net, (FRAME,)), until=[name])
    outputs: Any = found.program.module()(FRAME)
    expected = net.maps(FRAME)
    assert all(map(torch.equal, outputs, expected)) if name == "head" else torch.equal(outputs, expected[1])


def test_a_name_that_is_nowhere_is_refused() -> None:
    with pytest.raises(OptionError, match=r"until: 'hat' is no module or node of the graph"):
        transform(seeded(Plain()), (FRAME,), until="hat")


def test_a_module_that_is_never_called_is_refused() -> None:
    class Idle(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Conv2d(3, 3, 1)

    with pytest.raises(OptionError, match="until: spare is never called"):
        transform(seeded(Idle()), (FRAME,), until="spare")


def test_a_forward_of_the_object_itself_comes_back() -> None:
    net = seeded(Plain())
    forward = net.forward = net.get_submodule("body").forward
    assert transform(net, (FRAME,), until="body.0").report.sparse_convs == 1
    assert net.forward is forward


@pytest.mark.parametrize("model", [Branches, Suppresses, LeavesTorch])
def test_a_model_that_cannot_be_captured_is_told_where_to_cut(model: type[Heads]) -> None:
    with pytest.raises(CaptureError, match=r"cannot capture \w+: .*(?s:.)*Cut it there with until=\('head',\)"):
        transform(seeded(model()), (FRAME,))
