"""The six networks that benchmarks of whole networks run, each on a real clip."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from benchmarks.data import data_folder, load_clip, network_module
from benchmarks.networks.blocks import with_random_weights
from benchmarks.networks.efficientdet import EfficientDetD0
from benchmarks.networks.hrnet import HRNetW32
from benchmarks.networks.mobilenetv3 import MobileNetV3Large
from benchmarks.networks.resnet import ResNet50
from skipfx import Hold, Preprocess, SkipModel
from skipfx.bench.compare import Clip
from skipfx.transformation import transform

HANDHELD = "clips/bedroom_handheld.mp4"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """A network and what it looks at.

    Attributes:
        network: makes the model for a first frame.
        clip: file of the data folder.
        preprocess: how a picture becomes a frame.
        levels: of 256, by which a pixel must move to count as changed.
        start: first frame of the clip.
    """

    network: Callable[[Tensor], nn.Module | Path]
    clip: str
    preprocess: Preprocess
    levels: float = 12
    start: int = 0

    @property
    def input_threshold(self) -> float:
        """`levels` in the units of the network's input."""
        return self.levels / 255 / min(self.preprocess.std)

    def frames(self, count: int) -> Clip:
        """The first frames of the clip."""
        return load_clip(self.clip, self.preprocess, count, self.start)

    def handheld(self, count: int) -> Clip:
        """The first frames of a clip whose camera moves, in the same form."""
        return load_clip(HANDHELD, self.preprocess, count)

    def transformed(self, frame: Tensor, threshold: float, input_threshold: float) -> SkipModel:
        """The network in residual form."""
        gate = Hold(threshold=threshold, input_threshold=input_threshold)
        return transform(self.network(frame), (frame,), gate=gate)


def _yolov5n(frame: Tensor) -> Path:
    return data_folder() / "models" / "yolov5n_480x640.pt2"


def _vdsr(frame: Tensor) -> nn.Module:
    model: nn.Module = network_module("vdsr").load(str(data_folder() / "models" / "vdsr_state.pth"))
    return model


def _random(network: type[nn.Module], frame: Tensor) -> nn.Module:
    return with_random_weights(network(), frame)


def _case(network: type[nn.Module], size: tuple[int, int], clip: str) -> Case:
    return Case(partial(_random, network), clip, Preprocess(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD))


CASES = {
    "yolov5n": Case(_yolov5n, "pets/pets_s2l1_480x360.mp4", Preprocess(size=(480, 640))),
    "vdsr": Case(_vdsr, "clips/one_by_one.mp4", Preprocess(size=(216, 384), channels="luma"), levels=4, start=300),
    "hrnet": _case(HRNetW32, (256, 192), "clips/juggle_720p.mp4"),
    "efficientdet": _case(EfficientDetD0, (512, 512), "pets/pets_s2l1_480x360.mp4"),
    "resnet50": _case(ResNet50, (224, 224), "clips/bottle.mp4"),
    "mobilenetv3": _case(MobileNetV3Large, (224, 224), "clips/asl_book.mkv"),
}
