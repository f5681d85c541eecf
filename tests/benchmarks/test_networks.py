"""The networks have the size and the cost that their papers state, and activations of one size throughout."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.networks.blocks import with_random_weights
from benchmarks.networks.efficientdet import EfficientDetD0
from benchmarks.networks.hrnet import HRNetW32
from benchmarks.networks.mobilenetv3 import MobileNetV3Large
from benchmarks.networks.resnet import ResNet50

# network, size, and as published: millions of parameters, billions of multiply-accumulates
PUBLISHED = [
    # the paper states 7.1, but the layers that it names, whose parameters agree, sum up to 7.65
    (HRNetW32, (256, 192), 28.54, 7.65),
    (EfficientDetD0, (512, 512), 3.9, 2.5),
    (ResNet50, (224, 224), 25.56, 4.09),
    (MobileNetV3Large, (224, 224), 5.48, 0.217),
]


@pytest.mark.parametrize(("network", "size", "parameters", "macs"), PUBLISHED)
def test_the_published_figures(network: type[nn.Module], size: tuple[int, int], parameters: float, macs: float) -> None:
    with torch.device("meta"):
        model = network().eval()
        found = _macs(model, torch.empty(1, 3, *size))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters * 1e6, rel=0.01)
    assert found == pytest.approx(macs * 1e9, rel=0.025)


def _macs(model: nn.Module, frame: Tensor) -> int:
    """Of convolutions and linear layers."""
    counts: list[int] = []

    def count(module: nn.Module, taken: object, given: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counts.append(given.numel() * module.weight[0].numel())
        elif isinstance(module, nn.Linear):
            counts.append(module.weight.numel())

    for module in model.modules():
        module.register_forward_hook(count)
    model(frame)
    return sum(counts)


@pytest.mark.parametrize(("network", "size", "parameters", "macs"), PUBLISHED)
def test_activations_keep_their_size(
    network: type[nn.Module], size: tuple[int, int], parameters: float, macs: float
) -> None:
    torch.manual_seed(1)
    frame = torch.rand(1, 3, size[0] // 2, size[1] // 2)
    model = with_random_weights(network(), frame)
    sizes: list[float] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, taken, given: sizes.append(float(given.std())))
    with torch.no_grad():
        model(frame)
    assert min(sizes) > 0.1 and max(sizes) < 10
