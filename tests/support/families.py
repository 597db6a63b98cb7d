"""Every model family of the README, narrowed: the same parts and graph, a quarter of the width, few blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision.models import convnext, mobilenetv3, resnet, swin_transformer, vgg
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, _mobilenet_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from frcnn.exporter import MultiScaleRoIPool

_SMALL = {"min_size": 160, "max_size": 288, "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 100}


def _resnet_fpn(block: type[nn.Module], norm: type[nn.Module], fpn_norm: type[nn.Module] | None) -> BackboneWithFPN:
    kwargs = {"width_per_group": 16} if block is resnet.Bottleneck else {}
    body = resnet.ResNet(block, [1, 1, 1, 1], norm_layer=norm, **kwargs)
    channels = [64 * block.expansion * 2**i for i in range(4)]
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    return BackboneWithFPN(body, layers, channels, 32, norm_layer=fpn_norm)


def _predictor(channels: int, classes: int, grid: int = 7) -> dict[str, nn.Module]:
    return {"box_head": TwoMLPHead(channels * grid**2, 64), "box_predictor": FastRCNNPredictor(64, classes)}


def resnet50_fpn() -> FasterRCNN:
    backbone = _resnet_fpn(resnet.Bottleneck, FrozenBatchNorm2d, None)
    return FasterRCNN(backbone, **_predictor(32, 7), **_SMALL)


def resnet50_fpn_v2() -> FasterRCNN:
    backbone = _resnet_fpn(resnet.Bottleneck, nn.BatchNorm2d, nn.BatchNorm2d)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head = FastRCNNConvFCHead((32, 7, 7), [32, 32], [64], norm_layer=nn.BatchNorm2d)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(32, 3, conv_depth=2),
        box_head=head,
        box_predictor=FastRCNNPredictor(64, 7),
        **_SMALL,
    )


def mobilenet_v3_large_fpn() -> FasterRCNN:
    settings, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_large", width_mult=0.25, reduced_tail=True)
    body = mobilenetv3.MobileNetV3(settings, last, norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.01))
    backbone = _mobilenet_extractor(body, True, 6)
    sizes = ((32, 64, 128, 256, 512),) * 3
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3),
        rpn_score_thresh=0.05,
        **_predictor(256, 7),
        **_SMALL,
    )


def vgg16() -> FasterRCNN:
    """The paper's form: one map of stride 16, nine anchors a cell, RoI max pooling, two fully connected layers."""
    widths: list[str | int] = [16, 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M", 64, 64]
    backbone = vgg.make_layers(widths)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):  # as torchvision's VGG does; without, little of the image gets through
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    backbone.out_channels = 64
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIPool(["0"], 7),
        **_predictor(64, 7),
        **_SMALL,
    )


def resnet50_c4() -> FasterRCNN:
    """One map of stride 16; the last stage runs on pooled RoIs."""
    body = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], width_per_group=16, norm_layer=FrozenBatchNorm2d)
    backbone = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool, body.layer1, body.layer2, body.layer3)
    backbone.out_channels = 1024
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((64, 128, 256),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIPool(["0"], 8),
        box_head=nn.Sequential(body.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(2048, 7),
        **_SMALL | {"rpn_post_nms_top_n_test": 40},  # each proposal takes a whole stage
    )


def resnet18_fpn_max() -> FasterRCNN:
    """RoI max pooling on several levels, three of them, other classes, weights, thresholds, mean and grid."""
    backbone = _resnet_fpn(resnet.BasicBlock, nn.BatchNorm2d, None)
    return FasterRCNN(
        backbone,
        box_roi_pool=MultiScaleRoIPool(["0", "1", "2"], (5, 6)),
        box_head=TwoMLPHead(32 * 30, 64),
        box_predictor=FastRCNNPredictor(64, 2),
        bbox_reg_weights=(8.0, 9.0, 4.0, 3.0),
        box_nms_thresh=0.3,
        box_score_thresh=0.2,
        box_detections_per_img=20,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.3, 0.2, 0.1],
        **_SMALL,
    )


class _Pyramid(nn.Module):
    """A classifier's feature extractor under a Feature Pyramid Network, channels last or first."""

    def __init__(
        self, body: nn.Module, nodes: list[str], channels: list[int], *, channels_last: bool, width: int = 32
    ) -> None:
        super().__init__()
        self.body = create_feature_extractor(body, {node: str(i) for i, node in enumerate(nodes)})
        self.fpn = FeaturePyramidNetwork(channels, width, extra_blocks=LastLevelMaxPool())
        self.channels_last = channels_last
        self.out_channels = width

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.body(images)
        if self.channels_last:
            maps = {name: value.permute(0, 3, 1, 2) for name, value in maps.items()}
        return self.fpn(maps)


def convnext_fpn() -> FasterRCNN:
    blocks = [convnext.CNBlockConfig(24 * 2**i, 48 * 2**i if i < 3 else None, 1) for i in range(4)]
    body = convnext.ConvNeXt(blocks).eval()
    backbone = _Pyramid(body, [f"features.{i}" for i in (1, 3, 5, 7)], [24, 48, 96, 192], channels_last=False)
    return FasterRCNN(backbone, **_predictor(32, 7), **_SMALL)


def swin_fpn() -> FasterRCNN:
    """Two stages, the second with a shifted window; adaptive sampling and another canonical scale."""
    body = swin_transformer.SwinTransformer([4, 4], 24, depths=[1, 2], num_heads=[1, 2], window_size=[7, 7]).eval()
    backbone = _Pyramid(body, ["features.1", "features.3"], [24, 48], channels_last=True)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, sampling_ratio=-1, canonical_scale=112, canonical_level=3),
        **_predictor(32, 7),
        **_SMALL,
    )


FAMILIES: dict[str, Callable[[], FasterRCNN]] = {
    function.__name__: function
    for function in (
        resnet50_fpn,
        resnet50_fpn_v2,
        mobilenet_v3_large_fpn,
        vgg16,
        resnet50_c4,
        resnet18_fpn_max,
        convnext_fpn,
        swin_fpn,
    )
}


def build(family: str, *, seed: int = 0) -> FasterRCNN:
    """Build a narrowed family in eval mode, its weights drawn with a seed."""
    torch.manual_seed(seed)
    return FAMILIES[family]().eval()
