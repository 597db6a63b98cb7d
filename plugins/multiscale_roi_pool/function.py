"""MultiscaleRoIPool in standard ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frcnn.plugins.multiscale_roi_pool.spec import SPEC
from frcnn.plugins.roi_pooling.spec import pooling_function

if TYPE_CHECKING:
    import onnx


def function(*, levels: int, output_size: tuple[int, int]) -> onnx.FunctionProto:
    """Return the body; ONNX's MaxRoiPool takes the (height, width) as one list, so they are written into the body."""
    height, width = output_size

    def pool(level: int) -> str:
        return f"""
    image_column_{level} = Unsqueeze (images_of_{level}, axis_1)
    image_numbers_{level} = Cast <to = 1> (image_column_{level})
    image_rois_{level} = Concat <axis = 1> (image_numbers_{level}, rois_of_{level})
    pooled_of_{level} = MaxRoiPool <
        pooled_shape = [{height}, {width}], spatial_scale = 1.0
    > (map_{level}, image_rois_{level})
"""

    return pooling_function(SPEC, levels, pool)
