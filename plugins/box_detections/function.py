"""BoxDetections in standard ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from frcnn.plugins.box_detections.spec import SPEC
from frcnn.plugins.boxes.function import DECODE, LIMITS

if TYPE_CHECKING:
    import onnx


def function() -> onnx.FunctionProto:
    """Return the body.

    Only pairs of RoI and class whose score is over the threshold are decoded: fewer than 20 a RoI at 0.05, mostly none.
    ``NonMaxSuppression`` takes an image and class as a batch item. Boxes may be (x1, y1, x2, y2): IoU is the same with
    the axes swapped. Its boxes are reshaped once more, by a constant: in an int8 model OpenVINO 2026.4 loses sight of
    the 4 that a computed shape ends with, and refuses the node.
    """
    limits = "limits = GatherND (limits_of_images, image_of_pair)"
    return SPEC.function(f"{_PAIRS} {LIMITS} {limits} {DECODE} {_SUPPRESS} {_SELECT}")


_PAIRS: Final = """
    axis_0 = Constant <value_ints: ints = [0]> ()
    axis_1 = Constant <value_ints: ints = [1]> ()
    axis_2 = Constant <value_ints: ints = [2]> ()
    one = Constant <value_ints: ints = [1]> ()
    four = Constant <value_ints: ints = [4]> ()
    num_images = Shape <start = 0, end = 1> (rois)
    num_rois = Shape <start = 1, end = 2> (rois)
    num_classes = Shape <start = 1, end = 2> (class_logits)
    num_foreground = Sub (num_classes, one)

    float_logits = Cast <to = 1> (class_logits)
    probabilities = Softmax <axis = 1> (float_logits)
    foreground = Slice (probabilities, one, num_classes, axis_1)
    scores_shape = Concat <axis = 0> (num_images, num_rois, num_foreground)
    all_scores = Reshape (foreground, scores_shape)
    score_threshold = Constant <value_float: float = @score_threshold> ()
    is_over = Greater (all_scores, score_threshold)
    left, top, right, bottom = Split <axis = 2, num_outputs = 4> (rois)
    is_roi = GreaterOrEqual (right, left)
    is_pair = And (is_over, is_roi)
    pair_columns = NonZero (is_pair)
    pairs = Transpose <perm = [1, 0]> (pair_columns)

    one_class_less = Constant <value_ints: ints = [0, 0, 1]> ()
    delta_places = Add (pairs, one_class_less)
    deltas_shape = Concat <axis = 0> (num_images, num_rois, num_classes, four)
    class_deltas = Reshape (box_deltas, deltas_shape)
    deltas_of_type = GatherND (class_deltas, delta_places)
    deltas = Cast <to = 1> (deltas_of_type)
    image_of_pair, roi_of_pair, class_of_pair = Split <axis = 1, num_outputs = 3> (pairs)
    roi_places = Concat <axis = 1> (image_of_pair, roi_of_pair)
    anchors = GatherND (rois, roi_places)
"""

_SUPPRESS: Final = """
    class_places = Concat <axis = 1> (image_of_pair, class_of_pair, roi_of_pair)
    pair_scores = GatherND (all_scores, pairs)
    absent_score = Constant <value_float: float = -1.0> ()
    candidate_scores = Where (is_large, pair_scores, absent_score)
    class_scores_shape = Concat <axis = 0> (num_images, num_foreground, num_rois)
    absent_scores = Expand (absent_score, class_scores_shape)
    class_scores = ScatterND (absent_scores, class_places, candidate_scores)
    class_boxes_shape = Concat <axis = 0> (class_scores_shape, four)
    absent_boxes = Expand (nil, class_boxes_shape)
    class_boxes = ScatterND (absent_boxes, class_places, clipped)

    minus_one = Constant <value_ints: ints = [-1]> ()
    group_scores_shape = Concat <axis = 0> (minus_one, one, num_rois)
    group_scores = Reshape (class_scores, group_scores_shape)
    group_boxes_shape = Concat <axis = 0> (minus_one, num_rois, four)
    boxes_of_groups = Reshape (class_boxes, group_boxes_shape)
    rows_of_4 = Constant <value_ints: ints = [0, 0, 4]> ()
    group_boxes = Reshape (boxes_of_groups, rows_of_4)
    iou_threshold = Constant <value_float: float = @iou_threshold> ()
    least_score = Constant <value_float: float = -0.5> ()
    selected = NonMaxSuppression (group_boxes, group_scores, num_rois, iou_threshold, least_score)

    group, only_class, roi = Split <axis = 1, num_outputs = 3> (selected)
    image = Div (group, num_foreground)
    first_of_image = Mul (image, num_foreground)
    class = Sub (group, first_of_image)
    selected_places = Concat <axis = 1> (image, roi, class)
    selected_scores = GatherND (all_scores, selected_places)
    all_suppressed = Expand (absent_score, scores_shape)
    kept_by_roi = ScatterND (all_suppressed, selected_places, selected_scores)
"""

_SELECT: Final = """
    flat = Constant <value_ints: ints = [0, -1]> ()
    kept_scores = Reshape (kept_by_roi, flat)
    most = Constant <value_int: int = @max_detections> ()
    max_detections = Unsqueeze (most, axis_0)
    num_pairs = Mul (num_rois, num_foreground)
    num_best = Min (max_detections, num_pairs)
    found_scores, found = TopK <axis = 1> (kept_scores, num_best)
    num_missing = Sub (max_detections, num_best)
    missing_shape = Concat <axis = 0> (num_images, num_missing)
    missing_scores = Expand (absent_score, missing_shape)
    best_scores = Concat <axis = 1> (found_scores, missing_scores)
    zero = Constant <value_int: int = 0> ()
    missing = Expand (zero, missing_shape)
    best = Concat <axis = 1> (found, missing)

    is_found = GreaterOrEqual (best_scores, nil)
    is_found_int = Cast <to = 6> (is_found)
    num_detections = ReduceSum <keepdims = 0> (is_found_int, axis_1)
    scores = Where (is_found, best_scores, nil)
    roi_of_best = Div (best, num_foreground)
    first_of_roi = Mul (roi_of_best, num_foreground)
    class_of_best = Sub (best, first_of_roi)
    class_column = Unsqueeze (class_of_best, axis_2)
    roi_column = Unsqueeze (roi_of_best, axis_2)
    best_places = Concat <axis = 2> (class_column, roi_column)
    best_boxes = GatherND <batch_dims = 1> (class_boxes, best_places)
    is_found_column = Unsqueeze (is_found, axis_2)
    boxes = Where (is_found_column, best_boxes, nil)
    labels_of_best = Add (class_of_best, one)
    labels_long = Where (is_found, labels_of_best, zero)
    labels = Cast <to = 6> (labels_long)
"""
