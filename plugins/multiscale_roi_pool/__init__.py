"""MultiscaleRoIPool: the RoI max pooling of Fast and Faster R-CNN, with levels."""

from frcnn.plugins.multiscale_roi_pool.function import function
from frcnn.plugins.multiscale_roi_pool.spec import SPEC

__all__ = ["SPEC", "function"]
