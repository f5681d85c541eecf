"""The architectures that `benchmarks.zoo` tries: a list over timm, torchvision and transformers, and short definitions.

All have random weights; nothing is downloaded.
"""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["convolutional", "mixed"]  # mixed: attention or other mixing of the whole picture is most of the work
OWN = "benchmarks.architectures"
SMALL = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192}


@dataclass(frozen=True)
class Architecture:
    """What is tried.

    Attributes:
        name: in tables.
        family: several architectures may belong to one.
        kind: what most of the work is.
        factory: `module:function(keyword=value, ...)`, which makes the module.
        shape: of the frame, [C, H, W].
    """

    name: str
    family: str
    kind: Kind
    factory: str
    shape: tuple[int, int, int] = (3, 128, 160)

    @property
    def package(self) -> str:
        """The package that must be installed."""
        return self.name.partition("/")[0]


def _timm(family: str, name: str, kind: Kind = "convolutional", **more: Any) -> Architecture:
    shape = (3, *more["img_size"]) if "img_size" in more else (3, 128, 160)
    return Architecture(f"timm/{name}", family, kind, _call("timm:create_model", model_name=name, **more), shape)


def _torchvision(family: str, name: str, where: str = "torchvision.models", **more: Any) -> Architecture:
    factory = _call(f"{where}:{name}", weights=None, **more)
    return Architecture(f"torchvision/{name}", family, "convolutional", factory)


def _detector(family: str, name: str, shape: tuple[int, int, int] = (3, 128, 160)) -> Architecture:
    factory = _call(f"{OWN}.packages:DetectorMaps", name=name)
    return Architecture(f"torchvision/{name}", family, "convolutional", factory, shape)


def _transformers(
    family: str, architecture: str, kind: Kind, shape: tuple[int, int, int] = (3, 128, 160), **config: Any
) -> Architecture:
    factory = _call(f"{OWN}.packages:from_config", architecture=architecture, **config)
    return Architecture(f"transformers/{architecture}", family, kind, factory, shape)


def _with_backbone(
    family: str,
    architecture: str,
    kind: Kind,
    backbone: str,
    backbone_config: dict[str, Any],
    shape: tuple[int, int, int] = (3, 128, 160),
    **config: Any,
) -> Architecture:
    options = {"architecture": architecture, "backbone": backbone, "backbone_config": backbone_config, **config}
    return Architecture(
        f"transformers/{architecture}", family, kind, _call(f"{OWN}.packages:with_backbone", **options), shape
    )


def _own(family: str, where: str, name: str, shape: tuple[int, int, int] = (3, 128, 160)) -> Architecture:
    return Architecture(f"benchmarks/{name}", family, "convolutional", f"{OWN}.{where}:{name}()", shape)


def _call(function: str, **arguments: Any) -> str:
    return f"{function}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


CLASSIFIERS = [
    _timm("ResNet", "resnet18"),
    _timm("ResNet", "resnet18d"),
    _torchvision("ResNet", "wide_resnet50_2"),
    _timm("ResNeXt", "resnext50_32x4d"),
    _timm("Res2Net", "res2net50_14w_8s"),
    _torchvision("DenseNet", "densenet121"),
    _torchvision("VGG", "vgg11_bn"),
    _torchvision("Inception", "googlenet", init_weights=False, aux_logits=False),
    _timm("Inception", "inception_v3"),
    _timm("Inception", "inception_v4"),
    _timm("Xception", "xception41"),
    _timm("RegNet", "regnetx_002"),
    _timm("RegNet", "regnety_002"),
    _timm("MobileNetV1", "mobilenetv1_100"),
    _torchvision("MobileNetV2", "mobilenet_v2"),
    _timm("MobileNetV3", "mobilenetv3_large_100"),
    _timm("MobileNetV4", "mobilenetv4_conv_small"),
    _timm("MnasNet", "mnasnet_small"),
    _timm("EfficientNet", "efficientnet_b0"),
    _timm("EfficientNet", "tf_efficientnetv2_b0"),
    _timm("EfficientNet", "efficientnet_lite0"),
    _timm("GhostNet", "ghostnet_100"),
    _timm("GhostNet", "repghostnet_100"),
    _torchvision("ShuffleNet", "shufflenet_v2_x1_0"),
    _torchvision("SqueezeNet", "squeezenet1_1"),
    _timm("HRNet", "hrnet_w18_small"),
    _timm("DLA", "dla34"),
    _timm("VoVNet", "ese_vovnet19b_dw"),
    _timm("CSPDarknet", "cspdarknet53"),
    _timm("Darknet", "darknet53"),
    _timm("CSPResNet", "cspresnet50"),
    _timm("RepVGG", "repvgg_a0"),
    _timm("ConvNeXt", "convnext_atto"),
    _timm("ConvNeXt", "convnextv2_atto"),
    _timm("NFNet", "nfnet_l0"),
    _timm("NFNet", "nf_resnet26"),
    _own("HarDNet", "backbones", "HarDNet"),
    _timm("FastViT", "fastvit_t8", "mixed"),
    _timm("MobileOne", "mobileone_s0"),
    _timm("SENet", "legacy_seresnet18"),
    _timm("SKNet", "skresnet18"),
    _own("CoordAttention", "backbones", "CoordNet"),
    _timm("ResNeSt", "resnest14d"),
    _timm("DPN", "dpn48b"),
    _timm("SelecSLS", "selecsls42"),
    _timm("HGNet", "hgnet_tiny"),
    _timm("LCNet", "lcnet_050"),
    _timm("MixNet", "mixnet_s"),
    _timm("FBNet", "fbnetc_100"),
    _timm("ReXNet", "rexnet_100"),
    _timm("StarNet", "starnet_s1"),
    _timm("InceptionNeXt", "inception_next_atto"),
    _timm("RepViT", "repvit_m0_9"),
    _timm("PoolFormer", "poolformer_s12", "mixed"),
    _timm("BiT", "resnetv2_50x1_bit", "mixed"),
    _timm("EdgeNeXt", "edgenext_xx_small", "mixed"),
    _timm("EfficientViT", "efficientvit_b0", "mixed"),
    _timm("MobileViT", "mobilevit_xxs", "mixed"),
    _timm("LeViT", "levit_conv_128s", "mixed", img_size=(128, 128)),
    _timm("ViT", "vit_tiny_patch16_224", "mixed", img_size=(128, 160)),
    _timm("Swin", "swin_tiny_patch4_window7_224", "mixed", img_size=(112, 224)),
    _own("VAN", "backbones", "VAN"),
    _timm("FocalNet", "focalnet_tiny_srf", "mixed"),
]

SEGMENTATION = [
    _own("U-Net", "segmentation", "UNet"),
    _own("FPN", "segmentation", "FPN"),
    _own("PSPNet", "segmentation", "PSPNet"),
    _torchvision("DeepLab", "deeplabv3_mobilenet_v3_large", "torchvision.models.segmentation", weights_backbone=None),
    _torchvision("LR-ASPP", "lraspp_mobilenet_v3_large", "torchvision.models.segmentation", weights_backbone=None),
    _torchvision("FCN", "fcn_resnet50", "torchvision.models.segmentation", weights_backbone=None),
    _transformers("SegFormer", "SegformerForSemanticSegmentation", "mixed"),
    _transformers(
        "DPT", "DPTForSemanticSegmentation", "mixed", (3, 128, 128), image_size=128, fusion_hidden_size=32,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[24, 48, 96, 96], **SMALL | {"num_hidden_layers": 4},
    ),
    _with_backbone(
        "UperNet", "UperNetForSemanticSegmentation", "convolutional", "ConvNextConfig",
        {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1], "out_features": [f"stage{i}" for i in range(1, 5)]},
        hidden_size=64, auxiliary_in_channels=64,
    ),
]  # fmt: skip

DETECTION = [
    _own("YOLO", "detection", "Yolo"),
    _detector("SSD", "ssd300_vgg16", (3, 300, 300)),
    _detector("SSDLite", "ssdlite320_mobilenet_v3_large"),
    _detector("RetinaNet", "retinanet_resnet50_fpn"),
    _detector("FCOS", "fcos_resnet50_fpn"),
    _detector("Faster R-CNN", "fasterrcnn_mobilenet_v3_large_fpn"),
    _own("EfficientDet", "detection", "EfficientDet"),
    _own("CenterNet", "detection", "CenterNet"),
    _own("Hourglass", "detection", "Hourglass"),
    _transformers(
        "YOLOS", "YolosForObjectDetection", "mixed", (3, 128, 160), image_size=[128, 160], num_detection_tokens=20,
        **SMALL,
    ),
    _with_backbone(
        "DETR", "DetrForObjectDetection", "mixed", "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "out_features": ["stage4"]},
        use_timm_backbone=False, d_model=64, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=128, num_queries=20,
        decoder_ffn_dim=128, encoder_attention_heads=2, decoder_attention_heads=2,
    ),
    _transformers(
        "RT-DETR", "RTDetrForObjectDetection", "mixed", d_model=64, encoder_hidden_dim=64, decoder_layers=1,
        decoder_ffn_dim=64, encoder_ffn_dim=64, num_queries=20, decoder_attention_heads=2, encoder_attention_heads=2,
        decoder_in_channels=[64, 64, 64],
    ),
]  # fmt: skip

PICTURES = [
    _own("ESPCN", "pictures", "ESPCN", (1, 72, 96)),
    _own("FSRCNN", "pictures", "FSRCNN", (1, 72, 96)),
    _own("WDSR", "pictures", "WDSR", (3, 48, 64)),
    _transformers(
        "Swin2SR", "Swin2SRForImageSuperResolution", "mixed", (3, 64, 64), image_size=64, embed_dim=32, depths=[2, 2],
        num_heads=[2, 2],
    ),
    _own("FastDepth", "pictures", "FastDepth"),
    _transformers("GLPN", "GLPNForDepthEstimation", "mixed"),
    _transformers("Depth Anything", "DepthAnythingForDepthEstimation", "mixed", (3, 112, 140)),
    _own("MODNet", "pictures", "Matting"),
    _with_backbone(
        "ViTMatte", "VitMatteForImageMatting", "mixed", "VitDetConfig",
        {"num_channels": 4, "image_size": 128, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
         "out_features": ["stage2"], "window_block_indices": [0], "window_size": 4},
        shape=(4, 128, 128), hidden_size=96, convstream_hidden_sizes=[16, 32, 64], fusion_hidden_sizes=[64, 32, 16, 8],
    ),
]  # fmt: skip

ARCHITECTURES = [*CLASSIFIERS, *SEGMENTATION, *DETECTION, *PICTURES]
