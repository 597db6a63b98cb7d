"""Specification of GroupedNMS."""

from frcnn.plugins.operator import Attribute, OperatorSpec, Tensor

__all__ = ["SPEC"]

SPEC = OperatorSpec(
    name="GroupedNMS",
    summary=(
        "Greedy non-maximum suppression inside each group. Boxes are visited by falling score, equal scores by rising "
        "index; a box is suppressed when its IoU with a kept box of its group is greater than iou_threshold. "
        "A score below 0 (or NaN) marks an absent box. The output is the scores with -1 in the place of every "
        "suppressed or absent box."
    ),
    inputs=(
        Tensor(name="boxes", element="float32", shape=("G", "M", "4")),
        Tensor(name="scores", element="float32", shape=("G", "M")),
    ),
    outputs=(Tensor(name="kept_scores", element="float32", shape=("G", "M")),),
    attributes=(
        Attribute(
            name="iou_threshold",
            kind="float",
            meaning="overlap above which a box is suppressed; the float32 that the float32 IoU is compared with",
        ),
    ),
)
