"""RegionProposals in standard ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from frcnn.plugins.boxes.function import DECODE, LIMITS
from frcnn.plugins.region_proposals.spec import SPEC, strides_of_levels

if TYPE_CHECKING:
    import onnx


def function(*, levels: int, anchors_per_cell: Sequence[int], strides: Sequence[float] = (0.0,)) -> onnx.FunctionProto:
    """Return the body for a number of feature levels, since an ONNX function has a fixed number of inputs.

    The anchors of a cell and the strides are written into it.

    Only the candidates of each level are decoded. One ``NonMaxSuppression`` takes the candidates of all levels, and a
    level as a class. Their scores there fall by one from candidate to candidate, so that equal sigmoids keep their
    order. Boxes may be (x1, y1, x2, y2): IoU is the same with the axes swapped.
    """

    def of_all(name: str) -> str:
        return ", ".join(f"{name}_{level}" for level in range(levels))

    forms = zip(anchors_per_cell, strides_of_levels(strides, levels), strict=True)
    steps = "".join(_candidates(level, count, stride) for level, (count, stride) in enumerate(forms))
    return SPEC.function(
        f"""
        {_PREPARE}
        counts = Constant <value_ints: ints = {list(anchors_per_cell)}> ()
        {of_all("cell_anchors")} = Split <axis = 0> (coordinates, counts)
        {steps}
        logits = Concat <axis = 1> ({of_all("best_logits")})
        anchors = Concat <axis = 1> ({of_all("anchors")})
        deltas = Concat <axis = 1> ({of_all("chosen")})
        level_of_candidate = Concat <axis = 0> ({of_all("level_of")})
        levels = Constant <value_ints: ints = {list(range(levels))}> ()
        num_levels = Constant <value_ints: ints = [{levels}]> ()
        {LIMITS}
        limits = Unsqueeze (limits_of_images, axis_1)
        {DECODE} {_SUPPRESS} {_SELECT}
        """,
        levels,
    )


_PREPARE: Final = """
    axis_0 = Constant <value_ints: ints = [0]> ()
    axis_1 = Constant <value_ints: ints = [1]> ()
    axis_2 = Constant <value_ints: ints = [2]> ()
    flat = Constant <value_ints: ints = [0, -1]> ()
    flat_boxes = Constant <value_ints: ints = [0, -1, 4]> ()
    four = Constant <value_ints: ints = [4]> ()
    four_coordinates = Constant <value_ints: ints = [0, 1, 2, 3]> ()
    least_logit = Constant <value_float: float = -inf> ()
    pre_nms_top_n = Constant <value_int: int = @pre_nms_top_n> ()
    most = Unsqueeze (pre_nms_top_n, axis_0)
    canvas_height = Shape <start = 2, end = 3> (images)
    canvas_width = Shape <start = 3, end = 4> (images)

    anchor_values = Constant <value_floats: floats = @anchors> ()
    five_columns = Constant <value_ints: ints = [-1, 5]> ()
    anchor_rows = Reshape (anchor_values, five_columns)
    five = Constant <value_ints: ints = [5]> ()
    coordinates = Slice (anchor_rows, axis_1, five, axis_1)
"""

_SUPPRESS: Final = """
    negative_logits = Neg (logits)
    powers = Exp (negative_logits)
    unit = Constant <value_float: float = 1.0> ()
    denominators = Add (powers, unit)
    scores = Div (unit, denominators)
    score_threshold = Constant <value_float: float = @score_threshold> ()
    is_scored = GreaterOrEqual (scores, score_threshold)
    has_logit = Greater (logits, least_logit)
    is_present = And (is_scored, has_logit)
    is_candidate = And (is_present, is_large)

    num_candidates_vector = Shape <start = 1, end = 2> (logits)
    num_candidates = Squeeze (num_candidates_vector)
    zero = Constant <value_int: int = 0> ()
    minus_one = Constant <value_int: int = -1> ()
    falling = Range (num_candidates, zero, minus_one)
    rank_scores = Cast <to = 1> (falling)
    level_column = Unsqueeze (levels, axis_1)
    is_of_level = Equal (level_of_candidate, level_column)
    is_candidate_row = Unsqueeze (is_candidate, axis_1)
    is_candidate_of_level = And (is_candidate_row, is_of_level)
    absent_score = Constant <value_float: float = -1.0> ()
    level_scores = Where (is_candidate_of_level, rank_scores, absent_score)
    iou_threshold = Constant <value_float: float = @iou_threshold> ()
    selected = NonMaxSuppression (clipped, level_scores, num_candidates_vector, iou_threshold, nil)

    image_and_candidate = Constant <value_ints: ints = [0, 2]> ()
    places = Gather <axis = 1> (selected, image_and_candidate)
    selected_scores = GatherND (scores, places)
    candidates_shape = Shape (scores)
    all_suppressed = Expand (absent_score, candidates_shape)
    kept_scores = ScatterND (all_suppressed, places, selected_scores)
"""

_SELECT: Final = """
    post_nms_top_n = Constant <value_int: int = @post_nms_top_n> ()
    candidates_at_most = Mul (num_levels, most)
    num_rois = Min (candidates_at_most, post_nms_top_n)
    num_best = Min (num_rois, num_candidates_vector)
    best_scores, best = TopK <axis = 1> (kept_scores, num_best)
    best_rows = Unsqueeze (best, axis_2)
    best_boxes = GatherND <batch_dims = 1> (clipped, best_rows)
    best_scores_column = Unsqueeze (best_scores, axis_2)
    is_roi = GreaterOrEqual (best_scores_column, nil)
    absent_roi = Constant <value_floats: floats = [0.0, 0.0, -1.0, -1.0]> ()
    best_rois = Where (is_roi, best_boxes, absent_roi)

    num_images = Shape <start = 0, end = 1> (image_sizes)
    num_missing = Sub (num_rois, num_best)
    missing_shape = Concat <axis = 0> (num_images, num_missing, four)
    missing = Expand (absent_roi, missing_shape)
    rois = Concat <axis = 1> (best_rois, missing)
"""


def _candidates(i: int, per_cell: int, stride: int) -> str:
    """Return the text that computes the candidates of level i, k of them, in their order.

    ``best_logits_{i}`` (N, k), ``anchors_{i}`` (N, k, 4) and ``chosen_{i}`` deltas (N, k, 4), all float32, and
    ``level_of_{i}`` (k).
    """
    fixed = f"Constant <value_ints: ints = [{stride}]> ()"
    steps = (fixed, fixed) if stride else (f"Div (canvas_width, width_{i})", f"Div (canvas_height, height_{i})")
    return f"""
    map_{i} = Cast <to = 1> (objectness_{i})
    cells_first_{i} = Transpose <perm = [0, 2, 3, 1]> (map_{i})
    all_logits_{i} = Reshape (cells_first_{i}, flat)
    is_nan_{i} = IsNaN (all_logits_{i})
    logits_{i} = Where (is_nan_{i}, least_logit, all_logits_{i})
    count_{i} = Shape <start = 1, end = 2> (logits_{i})
    k_{i} = Min (most, count_{i})
    best_logits_{i}, index_{i} = TopK <axis = 1> (logits_{i}, k_{i})
    level_{i} = Constant <value_ints: ints = [{i}]> ()
    level_of_{i} = Expand (level_{i}, k_{i})

    height_{i} = Shape <start = 2, end = 3> (objectness_{i})
    width_{i} = Shape <start = 3, end = 4> (objectness_{i})
    per_cell_{i} = Constant <value_ints: ints = [{per_cell}]> ()
    place_{i} = Unsqueeze (index_{i}, axis_2)
    cell_{i} = Div (place_{i}, per_cell_{i})
    first_of_cell_{i} = Mul (cell_{i}, per_cell_{i})
    anchor_{i} = Sub (place_{i}, first_of_cell_{i})
    row_{i} = Div (cell_{i}, width_{i})
    first_of_row_{i} = Mul (row_{i}, width_{i})
    column_{i} = Sub (cell_{i}, first_of_row_{i})

    stride_x_{i} = {steps[0]}
    stride_y_{i} = {steps[1]}
    x_{i} = Mul (column_{i}, stride_x_{i})
    y_{i} = Mul (row_{i}, stride_y_{i})
    corners_{i} = Concat <axis = 2> (x_{i}, y_{i}, x_{i}, y_{i})
    moved_by_{i} = Cast <to = 1> (corners_{i})
    at_origin_{i} = GatherND (cell_anchors_{i}, anchor_{i})
    anchors_{i} = Add (moved_by_{i}, at_origin_{i})

    area_{i} = Mul (height_{i}, width_{i})
    first_delta_{i} = Mul (anchor_{i}, four)
    delta_{i} = Add (first_delta_{i}, four_coordinates)
    delta_plane_{i} = Mul (delta_{i}, area_{i})
    delta_place_{i} = Add (delta_plane_{i}, cell_{i})
    flat_place_{i} = Reshape (delta_place_{i}, flat)
    flat_deltas_{i} = Reshape (deltas_{i}, flat)
    flat_chosen_{i} = GatherElements <axis = 1> (flat_deltas_{i}, flat_place_{i})
    chosen_of_type_{i} = Reshape (flat_chosen_{i}, flat_boxes)
    chosen_{i} = Cast <to = 1> (chosen_of_type_{i})
    """
