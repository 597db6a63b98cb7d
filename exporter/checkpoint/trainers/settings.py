"""What the weights of another trainer do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from frcnn.spec import Size

Trainer = Literal["detectron2", "mmdetection"]
Triple: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A detector of another trainer, apart from its weights.

    Attributes:
        trainer: whose rules of resizing, of levels and of empty boxes hold.
        architecture: for people, such as ``"R50-FPN"``.
        min_size: length in pixels that the short side is resized to.
        max_size: limit in pixels of the long side.
        fixed_size: (height, width) that every image is resized to instead, or None.
        size_divisible: a canvas is a multiple of this many pixels.
        pixel_mean: of pixels from 0 to 255, in the order of ``channel_order``.
        pixel_std: likewise.
        channel_order: of the images that the network was trained with.
        stride_in_1x1: whether a bottleneck that halves its map does so in its first convolution (Caffe) or in its
            3x3 one (PyTorch).
        strides: of the first block of each stage of the backbone.
        dilations: of the 3x3 convolutions of each stage.
        out_stages: the stages, from 0, whose maps the neck takes, or the only one without a neck.
        norm_groups: of each group norm.
        anchors: for each level, the anchors (x1, y1, x2, y2) of the cell at the origin, in pixels of the canvas.
        anchor_strides: for each level, pixels of the canvas between cells.
        rpn_pre_nms_top_n: candidates of a level before NMS.
        rpn_post_nms_top_n: proposals of an image.
        rpn_nms_thresh: IoU above which a proposal is dropped for a better one.
        pooled_levels: how many of the finest levels RoIs are pooled from.
        pool_size: side of the pooled grid.
        pool_aligned: whether RoIAlign moves its samples by half a pixel.
        pool_max: RoI max pooling in place of RoIAlign.
        sampling_ratio: samples of a bin's side; 0 is adaptive.
        finest_scale: side in pixels from which RoIs are pooled from the second level (112 for 224 at the third).
        box_weights: divisors of dx, dy, dw, dh of the box head (1 / the standard deviations).
        box_score_thresh: detections score more.
        box_nms_thresh: IoU above which a detection is dropped for a better one of its class.
        box_detections_per_img: the most detections of an image.
        min_log_scale: lower limit of dw and dh, where the trainer has one.
        labels: names of the classes without the background, or None.
    """

    trainer: Trainer
    architecture: str
    min_size: int = 800
    max_size: int = 1333
    fixed_size: Size | None = None
    size_divisible: int = 32
    pixel_mean: Triple
    pixel_std: Triple
    channel_order: Literal["rgb", "bgr"]
    stride_in_1x1: bool
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    out_stages: tuple[int, ...] = (0, 1, 2, 3)
    norm_groups: int = 32
    anchors: tuple[tuple[tuple[float, float, float, float], ...], ...]
    anchor_strides: tuple[int, ...]
    rpn_pre_nms_top_n: int = 1000
    rpn_post_nms_top_n: int = 1000
    rpn_nms_thresh: float = 0.7
    pooled_levels: int = 4
    pool_size: int = 7
    pool_aligned: bool = True
    pool_max: bool = False
    sampling_ratio: int = 0
    finest_scale: float = 112.0
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100
    min_log_scale: float | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Weights of another trainer under the names of ``networks``, with the settings that go with them.

    ``state`` has the trainer's numbers: the background is the last class, and boxes have none for it.
    """

    settings: Settings
    state: Mapping[str, Tensor]
