"""The common part of the RoI pooling operators: tensors, attributes, and the body that gathers RoIs level by level."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from frcnn.plugins.operator import Attribute, OperatorSpec, Tensor

if TYPE_CHECKING:
    import onnx

INPUTS: Final = (
    Tensor(name="rois", element="float32", shape=("N", "R", "4")),
    Tensor(name="feature", element="features", shape=("N", "C", "H", "W"), variadic=True),
)
OUTPUTS: Final = (Tensor(name="pooled", element="features", shape=("N*R", "C", "output_height", "output_width")),)
ATTRIBUTES: Final = (
    Attribute(name="output_height", kind="int", meaning="rows of the pooled grid"),
    Attribute(name="output_width", kind="int", meaning="columns of the pooled grid"),
    Attribute(name="spatial_scales", kind="floats", meaning="map size / canvas size, one per level; powers of two"),
    Attribute(
        name="level_thresholds",
        kind="floats",
        meaning=(
            "max(1, L - 1) rising float32 values; a RoI's level is the number of them that are <= "
            "sqrt((x2 - x1) * (y2 - y1)), all in float32, so one level has one threshold that no side reaches"
        ),
    ),
)

PoolText = Callable[[int], str]
"""Returns the ONNX text for level i that computes ``pooled_of_{i}`` (Rᵢ, C, h, w) float32 from ``map_{i}`` (N, C, H, W)
float32, ``rois_of_{i}`` (Rᵢ, 4) float32 in cells of the map and ``images_of_{i}`` (Rᵢ) int64."""


def pooling_function(spec: OperatorSpec, levels: int, pool: PoolText) -> onnx.FunctionProto:
    """Return a RoI pooling body for a number of feature levels, since an ONNX function has a fixed number of inputs.

    Each RoI is pooled from the map of its level only, and absent RoIs from none. ``pool`` pools the RoIs of one level.
    """
    steps = "".join(_pool_level(level, pool) for level in range(levels))
    pooled_of_all = ", ".join(f"pooled_of_{level}" for level in range(levels))
    places_of_all = ", ".join(f"places_{level}" for level in range(levels))
    return spec.function(
        f"""
        {_PREPARE} {steps}
        by_level = Concat <axis = 0> ({pooled_of_all}, zero_grid)
        places = Concat <axis = 0> ({places_of_all})
        {_RESTORE_ORDER}
        """,
        levels,
    )


_PREPARE: Final = """
    axis_0 = Constant <value_ints: ints = [0]> ()
    axis_1 = Constant <value_ints: ints = [1]> ()
    one_row = Constant <value_ints: ints = [1]> ()
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    nil = Constant <value_float: float = 0.0> ()

    four_columns = Constant <value_ints: ints = [-1, 4]> ()
    all_rois = Reshape (rois, four_columns)
    count_vector = Shape <start = 0, end = 1> (all_rois)
    count = Squeeze (count_vector)
    per_image_vector = Shape <start = 1, end = 2> (rois)
    per_image = Squeeze (per_image_vector)
    divisor = Max (per_image, one)
    numbers = Range (zero, count, one)
    images = Div (numbers, divisor)

    x1, y1, x2, y2 = Split <axis = 1, num_outputs = 4> (all_rois)
    widths = Sub (x2, x1)
    heights = Sub (y2, y1)
    has_width = GreaterOrEqual (widths, nil)
    has_height = GreaterOrEqual (heights, nil)
    has_sides = And (has_width, has_height)
    areas = Mul (widths, heights)
    largest = Constant <value_float: float = 3.4028234663852886e38> ()
    is_finite = LessOrEqual (areas, largest)
    is_roi_column = And (has_sides, is_finite)
    is_roi = Squeeze (is_roi_column, axis_1)
    sides = Sqrt (areas)
    thresholds = Constant <value_floats: floats = @level_thresholds> ()
    reached = GreaterOrEqual (sides, thresholds)
    reached_int = Cast <to = 7> (reached)
    level_of_roi = ReduceSum <keepdims = 0> (reached_int, axis_1)

    channels = Shape <start = 1, end = 2> (feature_0)
    rows = Constant <value_int: int = @output_height> ()
    rows_vector = Unsqueeze (rows, axis_0)
    columns = Constant <value_int: int = @output_width> ()
    columns_vector = Unsqueeze (columns, axis_0)
    grid_shape = Concat <axis = 0> (one_row, channels, rows_vector, columns_vector)
    zero_grid = ConstantOfShape (grid_shape)
    scales = Constant <value_floats: floats = @spatial_scales> ()
"""

_RESTORE_ORDER: Final = """
    pooled_count_vector = Shape <start = 0, end = 1> (places)
    pooled_count = Squeeze (pooled_count_vector)
    row_of_zeros = Expand (pooled_count, count_vector)
    pooled_rows = Range (zero, pooled_count, one)
    row_of_roi = ScatterND (row_of_zeros, places, pooled_rows)
    in_order = Gather <axis = 0> (by_level, row_of_roi)
    pooled = CastLike (in_order, feature_0)
"""


def _pool_level(i: int, pool: PoolText) -> str:
    return f"""
    level_{i} = Constant <value_int: int = {i}> ()
    on_level_{i} = Equal (level_of_roi, level_{i})
    is_of_{i} = And (on_level_{i}, is_roi)
    place_row_{i} = NonZero (is_of_{i})
    places_{i} = Transpose <perm = [1, 0]> (place_row_{i})
    canvas_rois_of_{i} = GatherND (all_rois, places_{i})
    images_of_{i} = GatherND (images, places_{i})
    scale_{i} = Gather (scales, level_{i})
    rois_of_{i} = Mul (canvas_rois_of_{i}, scale_{i})
    map_{i} = Cast <to = 1> (feature_{i})
    {pool(i)}
"""
