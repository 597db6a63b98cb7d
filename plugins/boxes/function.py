"""Box arithmetic in ONNX text: the common part of the bodies of RegionProposals and BoxDetections."""

from typing import Final

LIMITS: Final = """
    width_height_twice = Constant <value_ints: ints = [1, 0, 1, 0]> ()
    float_sizes = Cast <to = 1> (image_sizes)
    limits_of_images = Gather <axis = 1> (float_sizes, width_height_twice)
"""
"""Computes ``limits_of_images`` (N, 4) float32, the largest x1, y1, x2, y2 in each image, from ``image_sizes``."""

DECODE: Final = """
    box_weights = Constant <value_floats: floats = @box_weights> ()
    max_log_scale = Constant <value_float: float = @max_log_scale> ()
    min_size = Constant <value_float: float = @min_size> ()
    half = Constant <value_float: float = 0.5> ()
    nil = Constant <value_float: float = 0.0> ()

    top_left, bottom_right = Split <axis = -1, num_outputs = 2> (anchors)
    sizes = Sub (bottom_right, top_left)
    halves = Mul (sizes, half)
    centers = Add (top_left, halves)
    weighted = Div (deltas, box_weights)
    shifts, log_scales = Split <axis = -1, num_outputs = 2> (weighted)
    moves = Mul (shifts, sizes)
    new_centers = Add (moves, centers)
    limited_log_scales = Min (log_scales, max_log_scale)
    scales = Exp (limited_log_scales)
    new_sizes = Mul (scales, sizes)
    new_halves = Mul (new_sizes, half)
    new_top_left = Sub (new_centers, new_halves)
    new_bottom_right = Add (new_centers, new_halves)
    decoded = Concat <axis = -1> (new_top_left, new_bottom_right)

    above_zero = Max (decoded, nil)
    clipped = Min (above_zero, limits)
    clipped_top_left, clipped_bottom_right = Split <axis = -1, num_outputs = 2> (clipped)
    sides = Sub (clipped_bottom_right, clipped_top_left)
    widths, heights = Split <axis = -1, num_outputs = 2> (sides)
    is_wide = GreaterOrEqual (widths, min_size)
    is_high = GreaterOrEqual (heights, min_size)
    is_large_column = And (is_wide, is_high)
    last_axis = Constant <value_ints: ints = [-1]> ()
    is_large = Squeeze (is_large_column, last_axis)
"""
"""Computes ``clipped`` (..., 4), the decoded boxes in their images, and ``is_large`` (...), whether both of their sides
are at least ``@min_size``, from ``deltas``, ``anchors`` and ``limits``, all (..., 4) float32 or broadcast to that."""
