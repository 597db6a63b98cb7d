"""MultiscaleRoIAlign in standard ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frcnn.plugins.multiscale_roi_align.spec import SPEC
from frcnn.plugins.roi_pooling.spec import pooling_function

if TYPE_CHECKING:
    import onnx


def function(*, levels: int, aligned: bool) -> onnx.FunctionProto:
    """Return the body; ONNX's RoiAlign takes the attribute ``aligned`` as text, so it is written into the body."""
    mode = "half_pixel" if aligned else "output_half_pixel"

    def pool(level: int) -> str:
        return f"""pooled_of_{level} = RoiAlign <
            coordinate_transformation_mode = "{mode}", mode = "avg", output_height: int = @output_height,
            output_width: int = @output_width, sampling_ratio: int = @sampling_ratio, spatial_scale = 1.0
        > (map_{level}, rois_of_{level}, images_of_{level})"""

    return pooling_function(SPEC, levels, pool)
