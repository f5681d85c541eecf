"""Frames in and outputs out: several frames, and the model's own structure however odd."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from tests.networks import Frames, TwoFrames, seeded
from tests.runtime.check import Net, assert_agrees, assert_close, changing, compiled, flat, noise, reference


class Named(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Fields:
    first: Tensor
    second: Tensor


torch.export.register_dataclass(Fields)


def _conv() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3, padding=1)


def test_two_frames_of_different_sizes() -> None:
    assert_agrees(seeded(TwoFrames()), changing((3, 8, 10), (1, 4, 5)))


def test_outputs_lie_as_maps_do() -> None:
    """[1, C, H, W] over the memory of [H, W, C]."""
    clip = changing((3, 8, 10))
    stream = compiled(seeded(_conv()), clip[0])[1].stream()
    for frames in clip:
        [output] = flat(stream(*frames))
        assert output.shape == (1, 4, 8, 10)
        assert output.transpose(0, 2, 3, 1).flags.c_contiguous


def test_one_of_two_frames_changes() -> None:
    net = Net(lambda m, x, y: [m.a(x), m.b(y), F.relu(m.a(x) + m.b(y))], a=_conv(), b=_conv())
    first, second = noise(1, 3, 5, 6), noise(1, 3, 5, 6, seed=1)
    third = noise(1, 3, 5, 6, seed=2)
    clip: list[Frames] = [(first, second), (third, second), (first, second), (first, -second), (first, -second)]
    assert_agrees(net, clip)


def test_frames_that_are_not_read_and_frames_that_are_outputs() -> None:
    net = Net(lambda m, x, y, z: [m.a(x), y], a=_conv())
    assert_agrees(net, changing((3, 5, 6), (2, 3, 1), (1, 4, 4)))


def test_the_frame_as_an_output_and_the_same_output_twice() -> None:
    def body(m: Any, x: Tensor) -> list[Tensor]:
        y = m.a(x)
        return [x, y, y, F.relu(y), x]

    assert_agrees(Net(body, a=_conv()), changing((3, 5, 6)))


def test_a_parameter_as_an_output() -> None:
    net = Net(lambda m, x: [m.a(x), m.anchors], a=_conv(), anchors=noise(2, 3))
    assert_agrees(net, changing((3, 5, 6)))


def _structures(a: Tensor, b: Tensor, c: Tensor) -> dict[str, Any]:
    return {
        "one": a,
        "tuple of one": (a,),
        "list": [a, b, c],
        "dict": {"z": a, "a": b, "m": c},
        "nested": {"maps": [a, (b,)], "pair": ({"x": c}, a)},
        "empty parts": {"none": [], "some": (a, {})},
    }


@pytest.mark.parametrize("kind", _structures(*[torch.zeros(1)] * 3))
def test_structures(kind: str) -> None:
    """Kinds, names, their order and the leaves are those of the model."""

    def body(m: Any, x: Tensor) -> Any:
        return _structures(m.a(x), F.relu(m.a(x)), m.b(x))[kind]

    clip = changing((3, 5, 6))
    skip, engine = compiled(Net(body, a=_conv(), b=_conv()), clip[0])
    outputs = engine.stream()(*(frame.numpy() for frame in clip[0]))
    leaves, spec = pytree.tree_flatten(outputs)
    assert spec == skip.out_spec
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert_close(leaves, next(iter(reference(skip, clip))))


NAMED: dict[str, Any] = {
    "named tuple": Named,
    "data class": Fields,
    "ordered dict": lambda first, second: OrderedDict(first=first, second=second),
    "default dict": lambda first, second: defaultdict(list, first=first, second=second),
}


@pytest.mark.parametrize("kind", NAMED)
def test_structures_by_name(kind: str) -> None:
    """What has names becomes a dict, which needs no class of the model."""
    clip = changing((3, 5, 6))
    net = Net(lambda m, x: NAMED[kind](m.a(x), m.b(x)), a=_conv(), b=_conv())
    _, engine = compiled(net, clip[0])
    outputs = engine.stream()(*clip[0])
    assert list(outputs) == ["first", "second"]
    with torch.no_grad():
        assert_close(flat([outputs["first"], outputs["second"]]), flat([net.a(*clip[0]), net.b(*clip[0])]))
