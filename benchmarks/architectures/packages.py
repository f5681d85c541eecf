"""Networks of packages that need more than one call to build, all with random weights."""

from typing import Any

from torch import Tensor, nn


def from_config(architecture: str, **config: Any) -> nn.Module:
    """A model of `transformers` with random weights.

    Args:
        architecture: name of its class.
        config: what differs from the default configuration.
    """
    import transformers

    kind = getattr(transformers, architecture)
    model: nn.Module = kind(kind.config_class(**config))
    return model


def with_backbone(architecture: str, backbone: str, backbone_config: dict[str, Any], **config: Any) -> nn.Module:
    """A model of `transformers` on a convolutional or windowed backbone, with random weights.

    Args:
        architecture: name of its class.
        backbone: name of the backbone's configuration class.
        backbone_config: what differs from the backbone's default configuration.
        config: what differs from the model's default configuration.
    """
    import transformers

    return from_config(architecture, backbone_config=getattr(transformers, backbone)(**backbone_config), **config)


class DetectorMaps(nn.Module):
    """A detector of `torchvision` up to its maps: backbone and heads, without anchors and non-maximum suppression."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision.models import detection

        detector = getattr(detection, name)(weights=None, weights_backbone=None)
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: Tensor) -> Any:
        return self.head(list(self.backbone(x).values()))
