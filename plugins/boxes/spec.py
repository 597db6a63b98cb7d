"""The attributes that RegionProposals and BoxDetections have in common."""

from typing import Final

from frcnn.plugins.operator import Attribute

BOX_WEIGHTS: Final = Attribute(name="box_weights", kind="floats", meaning="4 divisors of dx, dy, dw, dh")
MAX_LOG_SCALE: Final = Attribute(
    name="max_log_scale", kind="float", meaning="upper limit of dw and dh after the division"
)
IOU_THRESHOLD: Final = Attribute(
    name="iou_threshold",
    kind="float",
    meaning="overlap above which a box is suppressed; the float32 that the float32 IoU is compared with",
)
MIN_SIZE: Final = Attribute(
    name="min_size", kind="float", meaning="least side of a candidate after clipping, in pixels"
)
