"""The custom operators of the ONNX domain ``frcnn``, version 1: one folder each, with all its faces.

``spec`` defines an operator; ``reference`` is its meaning in PyTorch; ``function`` is its ONNX function body, which any
ONNX runtime can execute; ``kernel`` runs it on CUDA. Importing this package imports no torch.

Letters: N images, R RoIs per image, C channels, H and W feature map size, L levels, G groups, M boxes a group.
"""

from frcnn.plugins import grouped_nms, multiscale_roi_align, multiscale_roi_pool
from frcnn.plugins.operator import DOMAIN, VERSION, OperatorSpec

__all__ = ["DOMAIN", "OPERATORS", "VERSION", "OperatorSpec"]

OPERATORS: dict[str, OperatorSpec] = {
    operator.SPEC.name: operator.SPEC for operator in (grouped_nms, multiscale_roi_align, multiscale_roi_pool)
}
"""Operator name -> its spec."""
