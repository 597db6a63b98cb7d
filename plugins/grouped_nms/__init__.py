"""GroupedNMS: torchvision's ``batched_nms`` for padded groups, without data-dependent shapes."""

from frcnn.plugins.grouped_nms.function import function
from frcnn.plugins.grouped_nms.spec import SPEC

__all__ = ["SPEC", "function"]
