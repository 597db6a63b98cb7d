"""Specification of MultiscaleRoIAlign."""

from frcnn.plugins.operator import Attribute, OperatorSpec
from frcnn.plugins.roi_pooling.spec import ATTRIBUTES, INPUTS, OUTPUTS

SPEC = OperatorSpec(
    name="MultiscaleRoIAlign",
    summary=(
        "RoIAlign (arXiv:1703.06870) of padded RoIs (x1, y1, x2, y2 in canvas pixels), each from the feature level "
        "that its size selects; coordinates and sums are float32. A RoI with x2 < x1, y2 < y1 or an area that "
        "is not finite is absent: its output is 0."
    ),
    inputs=INPUTS,
    outputs=OUTPUTS,
    attributes=(
        *ATTRIBUTES,
        Attribute(name="sampling_ratio", kind="int", meaning="samples per bin side; 0: ceil(RoI side / grid side)"),
        Attribute(
            name="aligned",
            kind="int",
            meaning="1: RoIs are shifted by half a cell and may be under a cell wide; 0: as torchvision's model has it",
        ),
    ),
)
