"""MultiscaleRoIAlign: torchvision's ``MultiScaleRoIAlign`` with the level assignment inside."""

from frcnn.plugins.multiscale_roi_align.function import function
from frcnn.plugins.multiscale_roi_align.spec import SPEC

__all__ = ["SPEC", "function"]
