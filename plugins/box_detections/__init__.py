"""BoxDetections: the detections of an image, as torchvision's ``postprocess_detections`` selects them."""

from frcnn.plugins.box_detections.function import function
from frcnn.plugins.box_detections.spec import SPEC

__all__ = ["SPEC", "function"]
