"""The custom operators of the ONNX domain ``frcnn``, version 2: one folder each, with all its faces.

``spec`` defines an operator; ``reference`` is its meaning in PyTorch; ``function`` is its ONNX function body, which any
ONNX runtime can execute; ``kernel`` runs it on CUDA. Importing this package imports no torch.

Letters: N images, L levels, A anchors per cell, R RoIs per image, C channels or classes, H and W map size, K detections
per image.
"""

from frcnn.plugins import box_detections, multiscale_roi_align, multiscale_roi_pool, region_proposals
from frcnn.plugins.operator import DOMAIN, VERSION, OperatorSpec

__all__ = ["DOMAIN", "OPERATORS", "VERSION", "OperatorSpec"]

OPERATORS: dict[str, OperatorSpec] = {
    operator.SPEC.name: operator.SPEC
    for operator in (region_proposals, multiscale_roi_align, multiscale_roi_pool, box_detections)
}
"""Operator name -> its spec."""
