"""The shipped network has the promised size and finds the objects of scenes it was not trained on."""

import numpy as np
import pytest
import torch
from torch import nn

from skipfx.demo.network import WEIGHTS, DemoNet, load_demo_net, mean_iou, to_input
from skipfx.demo.scene import CLASSES, Scene


@pytest.fixture(scope="module")
def net() -> DemoNet:
    return load_demo_net()


def test_size() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    assert sum(parameter.numel() for parameter in DemoNet().parameters()) <= 100_000


def test_loads_trained_and_unfolded(net: DemoNet) -> None:
    assert not any(module.training for module in net.modules())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_mean.abs().max() > 0


def test_output_has_the_size_of_the_input(net: DemoNet) -> None:
    assert net(torch.rand(2, 3, 48, 72)).shape == (2, len(CLASSES), 48, 72)


def test_refuses_sizes_it_cannot_halve(net: DemoNet) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        net(torch.rand(1, 3, 48, 70))


def test_finds_the_objects_of_held_out_scenes(net: DemoNet) -> None:
    predicted, true = [], []
    for seed in (0, 1):
        for index in (40, 90, 130, 180):
            frame, mask = Scene(seed=seed).frame(index)
            with torch.inference_mode():
                predicted.append(net(to_input(frame)).argmax(1)[0].numpy())
            true.append(mask)
    assert mean_iou(np.stack(predicted), np.stack(true)) >= 0.8


def test_input_is_scaled_and_channels_first() -> None:
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = to_input(frame)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 2, 4), torch.float32)
    assert tensor[0, 2, 1, 3].item() == pytest.approx(23 / 255)
    assert to_input(np.stack([frame, frame])).shape == (2, 3, 2, 4)


def test_mean_iou() -> None:
    mask = np.array([[0, 1, 1, 2]])
    assert mean_iou(mask, mask) == 1
    assert mean_iou(np.array([[1, 1, 0, 2]]), mask) == pytest.approx((1 / 3 + 1) / 2)
    assert mean_iou(np.array([[0, 1, 1, 0]]), np.array([[0, 1, 1, 0]])) == 1
    assert mean_iou(np.zeros((2, 2), int), np.zeros((2, 2), int)) == 1
    assert mean_iou(np.ones((2, 2), int), np.zeros((2, 2), int)) == 0
    with pytest.raises(ValueError, match="shape"):
        mean_iou(mask, mask[0])
