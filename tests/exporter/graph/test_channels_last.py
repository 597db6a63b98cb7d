"""Networks with channels-last joints compute what the planar ones do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from support.exports import bare_session
from support.images import LANDSCAPE, network_input

from frcnn.errors import ExportError
from frcnn.exporter.graph.channels_last import channels_last_head, channels_last_maps
from frcnn.exporter.graph.split import split

SIZES = CHANNELS, HEIGHT, WIDTH = 6, 3, 4
COLUMNS, OUT = 72, 5
GEMM = "logits = Gemm <transB = 1> (flat, weight, bias)"


def head(body: str, *, element: str = "float", rows: str | int = "M", shape: str = "-1, 72") -> onnx.ModelProto:
    """Return a box head whose weights are small whole numbers: float32 sums are exact in any order."""
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 21]>
        boxes ({element}[{rows}, {CHANNELS}, {HEIGHT}, {WIDTH}] pooled) => ({element}[{rows}, {OUT}] logits)
        <int64[{len(shape.split(","))}] shape = {{ {shape} }}> {{ {body} }}
        """
    )
    rng = np.random.default_rng(3)
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    sizes = {"weight": (OUT, COLUMNS), "tall": (COLUMNS, OUT), "bias": (OUT,), "square": (OUT, OUT)}
    for name, size in sizes.items():
        values = rng.integers(-4, 5, size).astype(kind)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def last(array: NDArray[Any]) -> NDArray[Any]:
    """Return (N, C, H, W) as (N, H, W, C)."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def shape_of(value: onnx.ValueInfoProto) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def run(model: onnx.ModelProto, **values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = bare_session(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, values), strict=True))


def assert_same_from_channels_last(model: onnx.ModelProto, kind: type = np.float32) -> None:
    before = model.SerializeToString()
    changed = channels_last_head(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(changed, full_check=True)
    assert shape_of(changed.graph.input[0])[1:] == [HEIGHT, WIDTH, CHANNELS]
    assert [node.op_type for node in changed.graph.node] == [node.op_type for node in model.graph.node]
    pooled = np.random.default_rng(1).integers(-4, 5, (9, *SIZES)).astype(kind)
    assert np.array_equal(run(changed, pooled=last(pooled))["logits"], run(model, pooled=pooled)["logits"])


@pytest.mark.parametrize("element", ["float", "float16"])
@pytest.mark.parametrize(
    "products",
    [
        GEMM,
        "logits = Gemm (flat, tall, bias)",
        "logits = Gemm <alpha = 2.0, beta = 0.5, transB = 1> (flat, weight, bias)",
        "product = MatMul (flat, tall) logits = Add (product, bias)",
        "product = Gemm <transB = 1> (flat, weight) logits = Gemm (product, square, bias)",
        "one = Gemm <transB = 1> (flat, weight) other = MatMul (flat, tall) logits = Add (one, other)",
    ],
)
def test_fully_connected_heads_take_channels_last(products, element):
    model = head(f"flat = Flatten (pooled) {products}", element=element)
    assert_same_from_channels_last(model, np.float16 if element == "float16" else np.float32)


ROUNDED = "flat = Flatten (pooled) q = QuantizeLinear (flat, one, zero) x = DequantizeLinear (q, one, zero)"


def int8_head(body: str) -> onnx.ModelProto:
    """Return a head with int8 matrices, a scale for each result or column, and scales of one."""
    model = head(body)
    rng = np.random.default_rng(4)
    more = {
        "int8_weight": rng.integers(-4, 5, (OUT, COLUMNS)).astype(np.int8),
        "int8_tall": rng.integers(-4, 5, (COLUMNS, OUT)).astype(np.int8),
        "of_results": np.array([0.5, 1, 2, 4, 8], np.float32),
        "of_columns": np.ones(COLUMNS, np.float32),
        "one": np.float32(1),
        "zero": np.int8(0),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in more.items())
    return model


@pytest.mark.parametrize(
    "products",
    [
        "w = DequantizeLinear <axis = 0> (int8_weight, of_results) logits = Gemm <transB = 1> (x, w, bias)",
        "w = DequantizeLinear <axis = -1> (int8_tall, of_results) logits = Gemm (x, w, bias)",
        "w = DequantizeLinear (int8_tall, one, zero) logits = MatMul (x, w)",
        "logits = Gemm <transB = 1> (x, weight, bias)",
    ],
)
def test_int8_heads_take_channels_last(products):
    assert_same_from_channels_last(int8_head(f"{ROUNDED} {products}"))


@pytest.mark.parametrize(
    "body",
    [
        f"{ROUNDED} w = DequantizeLinear <axis = 1> (int8_weight, of_columns) logits = Gemm <transB = 1> (x, w)",
        f"{ROUNDED} v = Relu (one) w = DequantizeLinear (int8_tall, v) logits = MatMul (x, w)",
        f"{ROUNDED} w = DequantizeLinear (int8_tall, one) v = Relu (w) y = MatMul (x, w) logits = Add (y, bias)",
        f"{ROUNDED} also = Relu (flat) logits = MatMul (x, tall)",
        "flat = Flatten (pooled) q = QuantizeLinear <axis = 1> (flat, of_columns) "
        "x = DequantizeLinear <axis = 1> (q, of_columns) logits = MatMul (x, tall)",
    ],
)
def test_int8_heads_whose_scales_are_in_the_old_order_stay_planar(body):
    assert channels_last_head(int8_head(body)) is None


@pytest.mark.parametrize(
    ("flatten", "shape", "rows"),
    [
        ("Flatten <axis = 1> (pooled)", "-1, 72", "M"),
        ("Reshape (pooled, shape)", "-1, 72", "M"),
        ("Reshape <allowzero = 1> (pooled, shape)", "-1, 72", "M"),
        ("Reshape (pooled, shape)", "0, -1", "M"),
        ("Reshape (pooled, shape)", "0, 72", "M"),
        ("Reshape <allowzero = 1> (pooled, shape)", "9, -1", 9),
        ("Reshape (pooled, shape)", "9, 72", 9),
    ],
)
def test_every_way_to_flatten_is_known(flatten, shape, rows):
    assert_same_from_channels_last(head(f"flat = {flatten} {GEMM}", rows=rows, shape=shape))


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (f"conv = Relu (pooled) flat = Flatten (conv) {GEMM}", "-1, 72"),
        (f"flat = Flatten (pooled) also = Relu (pooled) {GEMM}", "-1, 72"),
        (f"sizes = Shape (pooled) flat = Reshape (pooled, shape) {GEMM}", "-1, 72"),
        (f"flat = Flatten <axis = 2> (pooled) {GEMM}", "-1, 72"),
        (f"flat = Reshape <allowzero = 1> (pooled, shape) {GEMM}", "0, 72"),
        (f"flat = Reshape (pooled, shape) {GEMM}", "-1, 36"),
        (f"flat = Reshape (pooled, shape) {GEMM}", "9, 72"),
        ("flat = Reshape (pooled, shape) logits = ReduceSum (flat)", "-1, 6, 12"),
        (f"sum = Add (shape, shape) flat = Reshape (pooled, sum) {GEMM}", "-1, 36"),
        (f"flat = Flatten (pooled) also = Relu (flat) {GEMM}", "-1, 72"),
        ("flat = Flatten (pooled) logits = Relu (flat)", "-1, 72"),
        ("logits = Flatten (pooled)", "-1, 72"),
        ("flat = Flatten (pooled) logits = Gemm <transA = 1> (flat, square)", "-1, 72"),
        ("flat = Flatten (pooled) logits = MatMul (weight, flat)", "-1, 72"),
        ("flat = Flatten (pooled) logits = Gemm <transB = 1> (flat, flat)", "-1, 72"),
        ("flat = Flatten (pooled) logits = Gemm <transB = 1> (flat, weight, flat)", "-1, 72"),
        ("flat = Flatten (pooled) logits = Gemm <transB = 1> (flat, weight, weight)", "-1, 72"),
        ("flat = Flatten (pooled) half = Relu (weight) logits = Gemm <transB = 1> (flat, half)", "-1, 72"),
        (f"flat = Flatten (pooled) {GEMM} also = Relu (weight)", "-1, 72"),
        ("flat = Flatten (pooled) logits = MatMul (flat, bias)", "-1, 72"),
    ],
)
def test_other_heads_stay_planar(body, shape):
    assert channels_last_head(head(body, shape=shape)) is None


def test_a_value_that_is_also_an_output_stays_planar():
    model = head(f"flat = Flatten (pooled) {GEMM}")
    model.graph.output.append(onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, ["M", COLUMNS]))
    assert channels_last_head(model) is None


def test_channels_that_the_graph_leaves_open_stay_planar():
    model = head(f"flat = Flatten (pooled) {GEMM}")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    assert channels_last_head(model) is None


@pytest.mark.parametrize("name", ["weight", "tall"])
@pytest.mark.parametrize("element", ["float", "float16", "bfloat16"])
def test_weights_move_bit_by_bit(element, name):
    """Infinities, values that are no numbers and their payloads among them."""
    product = {"weight": GEMM, "tall": "logits = Gemm (flat, tall, bias)"}[name]
    before = head(f"flat = Flatten (pooled) {product}", element=element)
    for tensor in before.graph.initializer:
        if tensor.name == name:
            tensor.raw_data = np.random.default_rng(5).bytes(len(tensor.raw_data))
    after = channels_last_head(before)
    bits = np.uint32 if element == "float" else np.uint16
    found, given = (
        {tensor.name: np.frombuffer(tensor.raw_data, bits) for tensor in part.graph.initializer if tensor.raw_data}
        for part in (after, before)
    )
    size = (OUT, *SIZES) if name == "weight" else (*SIZES, OUT)
    order = (0, 2, 3, 1) if name == "weight" else (1, 2, 0, 3)
    assert np.array_equal(found[name], given[name].reshape(size).transpose(order).ravel())
    assert all(np.array_equal(found[other], given[other]) for other in given if other != name)


@pytest.mark.parametrize("family", ["resnet50_fpn", "resnet18_fpn_max"])
def test_networks_of_a_detector_give_the_same_channels_last(family, exports):
    """The maps bit by bit; the head up to the order of its sums."""
    export = exports(family)
    networks = split(onnx.load(export.path))
    maps = networks.pooling.input[1:]
    images = network_input(export.model, export.spec, LANDSCAPE)[0][:2].numpy()
    planar, changed = (
        run(networks.features, images=images),
        run(channels_last_maps(networks.features, maps), images=images),
    )
    assert list(changed) == list(planar)
    for name, value in planar.items():
        assert np.array_equal(changed[name], last(value) if name in maps else value), name

    (pooled,) = networks.boxes.graph.input
    values = np.random.default_rng(2).standard_normal((7, *shape_of(pooled)[1:])).astype(np.float32)
    expected, found = run(networks.boxes, pooled=values), run(channels_last_head(networks.boxes), pooled=last(values))
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * np.abs(value).max(), name


def test_a_head_of_convolutions_stays_planar(exports):
    assert channels_last_head(split(onnx.load(exports("resnet50_fpn_v2").path)).boxes) is None


MAPS = """
    <ir_version: 10, opset_import: ["" : 21]>
    features (float[N, 3, H, W] images, bool more)
    => (float[N, 3, H, W] features_0, float[N, 3, H2, W2] features_1, float[N, 3, H2, W2] objectness_0)
    {
        features_0 = Relu (images)
        features_1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (features_0)
        features_0_planar = Neg (features_1)
        chosen = If (more) <
            then_branch = then_ () => (one) { one = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (features_0) },
            else_branch = else_ () => (other) { other = Neg (features_1) }
        >
        objectness_0 = Add (chosen, features_0_planar)
    }
"""


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("names", [["features_0", "features_1"], ["features_0"], []])
def test_maps_that_other_nodes_read_too_are_transposed(names, more):
    model = onnx.parser.parse_model(MAPS)
    before = model.SerializeToString()
    changed = channels_last_maps(model, names)
    assert model.SerializeToString() == before
    onnx.checker.check_model(changed, full_check=True)
    declared = {value.name: shape_of(value) for value in changed.graph.output}
    assert declared["features_0"] == (["N", "H", "W", 3] if names else ["N", 3, "H", "W"])
    assert declared["objectness_0"] == ["N", 3, "H2", "W2"]
    images = np.random.default_rng(4).standard_normal((2, 3, 4, 6)).astype(np.float32)
    expected, found = (run(part, images=images, more=np.array(more)) for part in (model, changed))
    for name, value in expected.items():
        assert np.array_equal(found[name], last(value) if name in names else value), name


@pytest.mark.parametrize("name", ["missing", "vector"])
def test_only_outputs_of_four_dimensions_are_transposed(name):
    model = onnx.parser.parse_model(MAPS)
    model.graph.output.append(onnx.helper.make_tensor_value_info("vector", onnx.TensorProto.FLOAT, ["N"]))
    with pytest.raises(ExportError, match=f"expected an output of 4 dimensions, got '{name}'.*vector of 1"):
        channels_last_maps(model, ["features_0", name])
