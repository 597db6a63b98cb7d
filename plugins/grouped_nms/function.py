"""GroupedNMS in standard ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["function"]

_BODY = """
<domain: "frcnn", opset_import: ["" : 20]>
GroupedNMS <iou_threshold> (boxes, scores) => (kept_scores)
{
    nothing = Constant <value_float: float = -1.0> ()
    zero = Constant <value_float: float = 0.0> ()
    is_present = GreaterOrEqual (scores, zero)
    present_scores = Where (is_present, scores, nothing)

    axis_of_class = Constant <value_ints: ints = [1]> ()
    class_scores = Unsqueeze (present_scores, axis_of_class)
    most = Shape <start = 1, end = 2> (scores)
    threshold = Constant <value_float: float = @iou_threshold> ()
    least = Constant <value_float: float = -0.5> ()
    selected = NonMaxSuppression (boxes, class_scores, most, threshold, least)

    group_and_box = Constant <value_ints: ints = [0, 2]> ()
    places = Gather <axis = 1> (selected, group_and_box)
    selected_scores = GatherND (present_scores, places)
    shape = Shape (scores)
    all_suppressed = Expand (nothing, shape)
    kept_scores = ScatterND (all_suppressed, places, selected_scores)
}
"""


def function() -> onnx.FunctionProto:
    """Return the function body.

    ``NonMaxSuppression`` takes a group as a batch item with one class. Boxes may be (x1, y1, x2, y2): IoU is the same
    with the axes swapped.
    """
    import onnx.parser

    return onnx.parser.parse_function(_BODY)
