"""Specification of MultiscaleRoIPool."""

from frcnn.plugins.operator import OperatorSpec
from frcnn.plugins.roi_pooling.spec import ATTRIBUTES, INPUTS, OUTPUTS

SPEC = OperatorSpec(
    name="MultiscaleRoIPool",
    summary=(
        "RoI max pooling (Fast R-CNN, arXiv:1504.08083, as in torchvision.ops.roi_pool: RoIs are rounded to whole "
        "cells) of padded RoIs (x1, y1, x2, y2 in canvas pixels), each from the feature level that its size selects. "
        "A RoI with x2 < x1, y2 < y1 or an area that is not finite is absent: its output is 0."
    ),
    inputs=INPUTS,
    outputs=OUTPUTS,
    attributes=ATTRIBUTES,
)
