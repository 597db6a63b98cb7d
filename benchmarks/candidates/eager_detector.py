"""torchvision's own model as a detector on a given canvas: the reference of every comparison."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.poolers import initLevelMapper

from frcnn.errors import ImageError
from frcnn.exporter.model.networks import luma
from frcnn.exporter.model.spec_from_model import image_channels
from frcnn.runtime import Detections
from frcnn.runtime.images.image import RGBImage
from frcnn.spec import ModelSpec, Size


class EagerDetector:
    """Runs a torchvision model in eval mode, its own transform included, one image at a time."""

    def __init__(self, model: GeneralizedRCNN, spec: ModelSpec) -> None:
        self.model = model
        self.spec = spec
        match_export(model, spec)

    @torch.inference_mode()
    def detect(self, image: RGBImage, canvas: Size) -> Detections:
        """Detect in an image padded onto a canvas (height, width), as the artifact under comparison pads it."""
        transform = self.model.transform
        pixels = to_tensor(image).to(next(self.model.parameters()).device)
        try:
            resized, _ = transform.resize(transform.normalize(pixels), None)
        except RuntimeError as error:  # the short side of a very long image becomes 0 pixels
            raise ImageError(f"{image.name}: torchvision cannot resize it: {error}") from error
        size = (int(resized.shape[1]), int(resized.shape[2]))
        padded = resized.new_zeros(1, 3, *canvas)
        padded[0, :, : size[0], : size[1]] = resized
        (result,) = transform.postprocess(run_network(self.model, padded, [size]), [size], [image.size])
        return to_detections(result, image, self.spec)


def run_network(model: GeneralizedRCNN, images: Tensor, sizes: Sequence[Size]) -> list[dict[str, Tensor]]:
    """Run torchvision between its transform and its postprocessing; boxes are in canvas pixels.

    ``images`` are (N, 3, H, W) of the model's type, normalised and padded; ``sizes`` (height, width) as resized.
    """
    maps = model.backbone(images)
    features = OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps
    proposals, _ = model.rpn(ImageList(images, list(sizes)), features)
    detections: list[dict[str, Tensor]] = model.roi_heads(features, proposals, list(sizes))[0]
    return detections


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
