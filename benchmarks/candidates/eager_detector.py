"""torchvision's own model as a detector on a given canvas: the reference of every comparison."""

from __future__ import annotations

import copy
import math
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import box_iou
from torchvision.ops.poolers import initLevelMapper

from frcnn.benchmarks.candidates.candidate import padded_canvas, score_noise
from frcnn.benchmarks.candidates.trainer_models import TrainerModel
from frcnn.errors import ImageError
from frcnn.exporter.model.networks import luma
from frcnn.exporter.model.spec_from_model import image_channels
from frcnn.runtime import Detections
from frcnn.runtime.images.image import RGBImage
from frcnn.spec import ModelSpec, Size


class Alternatives(NamedTuple):
    """What torchvision computes for an image before NMS of the classes and the limit of detections.

    Attributes:
        own: of its proposals.
        last: of those proposals at the end of a full list for which others of the same objectness could stand.
        tied: of the boxes that it drops for a proposal of the same objectness.
    """

    own: Detections
    last: Detections
    tied: Detections


class EagerDetector:
    """Runs a torchvision model in eval mode, its own transform included, one image at a time.

    Where ``own`` is the model of another trainer itself, that detects on its own canvas; ``model`` restates it.
    """

    def __init__(self, model: GeneralizedRCNN, spec: ModelSpec, own: TrainerModel | None = None) -> None:
        self.model = model
        self.spec = spec
        self.own = own
        match_export(model, spec)

    @torch.inference_mode()
    def detect(self, image: RGBImage, canvas: Size) -> Detections:
        """Detect in an image padded onto a canvas (height, width), as the artifact under comparison pads it."""
        if self.own is not None and canvas == padded_canvas(self.spec, image):
            return self.own.detect(image, self.spec.labels)
        padded, size = self._prepare(image, canvas)
        return self._finish(run_network(self.model, padded, [size]), size, image)

    @torch.inference_mode()
    def alternatives(self, image: RGBImage, canvas: Size, *, noise: float) -> Alternatives:
        """Return all boxes among which rounding could choose others than ``detect`` does, by :func:`score_noise`."""
        padded, size = self._prepare(image, canvas)
        features = feature_maps(self.model, padded)
        proposals = _tied_proposals(self.model.rpn, ImageList(padded, [size]), features, noise=noise)
        heads = copy.copy(self.model.roi_heads)
        heads.nms_thresh, heads.detections_per_img = 1.0, sys.maxsize
        return Alternatives(*(self._finish(heads(features, [rois], [size])[0], size, image) for rois in proposals))

    def _prepare(self, image: RGBImage, canvas: Size) -> tuple[Tensor, Size]:
        """Return the resized image on its canvas, (1, 3, H, W), and its (height, width) there."""
        transform = self.model.transform
        pixels = to_tensor(image).to(next(self.model.parameters()).device)
        try:
            resized, _ = transform.resize(transform.normalize(pixels), None)
        except RuntimeError as error:  # the short side of a very long image becomes 0 pixels
            raise ImageError(f"{image.name}: torchvision cannot resize it: {error}") from error
        size = (int(resized.shape[1]), int(resized.shape[2]))
        padded = resized.new_zeros(1, 3, *canvas)
        padded[0, :, : size[0], : size[1]] = resized
        return padded, size

    def _finish(self, results: list[dict[str, Tensor]], size: Size, image: RGBImage) -> Detections:
        (result,) = self.model.transform.postprocess(results, [size], [image.size])
        return to_detections(result, image, self.spec)


def run_network(model: GeneralizedRCNN, images: Tensor, sizes: Sequence[Size]) -> list[dict[str, Tensor]]:
    """Run torchvision between its transform and its postprocessing; boxes are in canvas pixels.

    ``images`` are (N, 3, H, W) of the model's type, normalised and padded; ``sizes`` (height, width) as resized.
    """
    features = feature_maps(model, images)
    proposals, _ = model.rpn(ImageList(images, list(sizes)), features)
    detections: list[dict[str, Tensor]] = model.roi_heads(features, proposals, list(sizes))[0]
    return detections


def feature_maps(model: GeneralizedRCNN, images: Tensor) -> OrderedDict[str, Tensor]:
    """Return the backbone's feature maps by name."""
    maps = model.backbone(images)
    return OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps


def _tied_proposals(
    rpn: RegionProposalNetwork, images: ImageList, features: OrderedDict[str, Tensor], *, noise: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the proposals (R, 4) of an image, those at the end of a full list, and what lost against a proposal.

    What lost, in NMS or at the end of a full list, did so by no more than noise.
    """
    maps = list(features.values())
    objectness, deltas = rpn.head(maps)
    counts = [level[0].numel() for level in objectness]
    flat, flat_deltas = concat_box_prediction_layers(objectness, deltas)
    anchors = rpn.anchor_generator(images, maps)
    boxes = rpn.box_coder.decode(flat_deltas, anchors).view(1, -1, 4)
    without_nms = copy.copy(rpn)
    without_nms.nms_thresh, without_nms._post_nms_top_n = 1.0, {"testing": sys.maxsize}
    (kept,), (scores,) = rpn.filter_proposals(boxes, flat, images.image_sizes, counts)
    (every,), (every_score,) = without_nms.filter_proposals(boxes, flat, images.image_sizes, counts)
    overlaps = box_iou(every, kept) > rpn.nms_thresh
    enough = scores - score_noise(scores, noise)
    is_tied = overlaps.any(1) & ~(overlaps & (every_score[:, None] < enough)).any(1)
    is_last = torch.zeros_like(scores, dtype=torch.bool)
    if len(kept) == rpn.post_nms_top_n():
        is_tied |= ~overlaps.any(1) & (every_score >= enough.min())
        is_last = enough <= scores.min()
    is_own = (every[:, None] == kept).all(-1).any(1)
    return kept, kept[is_last], every[is_tied & ~is_own]


def to_detections(result: dict[str, Tensor], image: RGBImage, spec: ModelSpec) -> Detections:
    """Return one of torchvision's dictionaries, boxes in the image's own pixels, as detections on the host."""
    return Detections(
        boxes=result["boxes"].float().cpu().numpy(),
        scores=result["scores"].float().cpu().numpy(),
        labels=result["labels"].cpu().numpy(),
        image_size=image.size,
        source=image.source,
        label_names=spec.labels,
    )


def to_tensor(image: RGBImage) -> Tensor:
    """Return an image as torchvision's models take it: (3, H, W) float32 in [0, 1]."""
    chw = torch.tensor(image.pixels).permute(2, 0, 1)  # a copy: an image is read-only
    return chw if chw.is_floating_point() else chw.float().div(255)


def match_export(model: GeneralizedRCNN, spec: ModelSpec) -> None:
    """Give the RoI pooler the scales of its feature maps, and a grey backbone the luma of RGB images.

    torchvision infers the scales from the first image a model ever sees and keeps them; a very small first image, whose
    canvas is mostly padding, spoils them for all that follow.
    """
    if image_channels(model) == 1:
        model.backbone.register_forward_pre_hook(luma)
    pooler = model.roi_heads.box_roi_pool
    scales = list(spec.roi_heads.pooler.spatial_scales)
    finest, coarsest = (int(-math.log2(scale)) for scale in (scales[0], scales[-1]))
    pooler.scales = scales
    pooler.map_levels = initLevelMapper(finest, coarsest, pooler.canonical_scale, pooler.canonical_level)
