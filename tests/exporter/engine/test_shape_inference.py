"""Shapes of a network's outputs: arithmetic on sizes is followed, data is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser

from frcnn.errors import ExportError
from frcnn.exporter.engine.shape_inference import element_of, elements_of, output_shapes


def model_of(body: str, *, values: str = "") -> onnx.ModelProto:
    """Return a network from images in float16 to maps."""
    head = '<ir_version: 10, opset_import: ["": 20]> network (float16[n, 3, h, w] images) => (float16[n, c, p, q] maps)'
    return parser.parse_model(f"{head} {values} {{ {body} }}")


def test_arithmetic_on_sizes_is_followed():
    """Rounding up to a multiple of 7 takes Mod, Where and arithmetic in float32."""
    model = model_of(
        """
        size = Shape <start = 2, end = 4> (images)
        rest = Mod (size, seven)
        missing = Sub (seven, rest)
        is_whole = Equal (rest, zero)
        pad = Where (is_whole, zero, missing)
        halves = Cast <to = 1> (pad)
        half = Mul (halves, half_of)
        up = Ceil (half)
        after = Cast <to = 7> (up)
        ahead = Sub (pad, after)
        none = Constant <value = int64[2] {0, 0}> ()
        pads = Concat <axis = 0> (none, ahead, none, after)
        maps = Pad (images, pads)
        """,
        values="<int64[1] seven = {7}, int64[1] zero = {0}, float[1] half_of = {0.5}>",
    )
    assert output_shapes(model, {"images": (1, 3, 50, 63)}) == {"maps": (1, 3, 56, 63)}
    assert output_shapes(model, {"images": (2, 3, 49, 64)}) == {"maps": (2, 3, 49, 70)}
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["n", "", "h", "w"]


def test_the_values_of_weights_are_not_needed():
    model = model_of("maps = Conv <strides = [2, 2]> (images, weight)")
    weight = onnx.numpy_helper.from_array(np.ones((512, 3, 1, 1), np.float16), "weight")
    model.graph.initializer.append(weight)
    assert output_shapes(model, {"images": (4, 3, 64, 95)}) == {"maps": (4, 512, 32, 48)}
    model.graph.initializer[0].ClearField("raw_data")
    assert output_shapes(model, {"images": (4, 3, 64, 95)}) == {"maps": (4, 512, 32, 48)}


def test_a_shape_that_depends_on_data_is_refused():
    model = model_of(
        "found = NonZero (images) some = Cast <to = 10> (found) maps = Unsqueeze (some, axes)",
        values="<int64[2] axes = {0, 1}>",
    )
    with pytest.raises(ExportError) as caught:
        output_shapes(model, {"images": (1, 3, 8, 8)})
    assert caught.value.message == ("the shape of maps depends on data, expected it to follow from images (1, 3, 8, 8)")


def test_shapes_that_a_network_does_not_take_are_refused():
    model = model_of("maps = MatMul (images, weight)", values="<float16[5, 1] weight = {1, 1, 1, 1, 1}>")
    assert output_shapes(model, {"images": (1, 3, 8, 5)}) == {"maps": (1, 3, 8, 1)}
    with pytest.raises(ExportError, match=r"ONNX cannot infer the shapes in the graph: .*MatMul"):
        output_shapes(model, {"images": (1, 3, 8, 8)})


def test_elements_are_those_of_every_value():
    model = model_of(
        """
        wide = Cast <to = 1> (images)
        sum = Add (wide, one)
        size = Shape (sum)
        maps = Cast <to = 10> (sum)
        """,
        values="<float[1] one = {1}>",
    )
    assert elements_of(model) == {
        "images": "float16",
        "one": "float32",
        "wide": "float32",
        "sum": "float32",
        "size": "int64",
        "maps": "float16",
    }
    assert element_of(model.graph.output[0]) == "float16"
    with pytest.raises(ExportError, match=r"maps: expected elements of float32, .*, got UINT8"):
        element_of(onnx.helper.make_tensor_value_info("maps", TensorProto.UINT8, []))
