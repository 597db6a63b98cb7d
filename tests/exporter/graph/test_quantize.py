"""Quantised networks: where Q/DQ nodes stand, what their scales come from, and what stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from support.processor import saturates

from frcnn.errors import UsageError
from frcnn.exporter.graph.quantize import Ranges, Recipe, calibrate, layer_groups, quantize

SIZE = 64
PREDICTIONS = ("rpn/head/cls_logits", "rpn/head/bbox_pred", "roi_heads/box_predictor")


def batch(values: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    return {"images": values, "image_sizes": np.array([[SIZE, SIZE]], np.int32)}


def batches(count: int = 3) -> Iterator[dict[str, NDArray[np.generic]]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield batch(rng.normal(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> onnx.ModelProto:
    return onnx.load(tiny_model)


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto) -> Ranges:
    return calibrate(model, batches(), threads=1)


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {value: node for node in graph.node for value in node.output}


def in_int8(graph: onnx.GraphProto) -> set[str]:
    """Give the heavy nodes whose activation and weight both come from int8 values."""
    made = makers(graph)
    return {
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and all(name in made and made[name].op_type == "DequantizeLinear" for name in node.input[:2])
    }


def activation_zero_points(graph: onnx.GraphProto) -> list[NDArray[np.generic]]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    return [numpy_helper.to_array(constants[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"]


def test_groups_are_modules_in_execution_order(model: onnx.ModelProto) -> None:
    groups = layer_groups(model)
    assert list(groups)[-2:] == ["roi_heads/box_head/fc6", "roi_heads/box_head/fc7"]
    names = [name for nodes in groups.values() for name in nodes]
    heavy = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert names == [name for name in heavy if not name.startswith(PREDICTIONS)]
    assert len(heavy) == len(names) + 4


@pytest.mark.parametrize("symmetric", [False, True])
def test_all_layers_but_predictions_are_int8(model: onnx.ModelProto, ranges: Ranges, symmetric: bool) -> None:
    quantized = quantize(model, ranges, Recipe(symmetric=symmetric))
    assert in_int8(quantized.graph) == {name for names in layer_groups(model).values() for name in names}


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_layer_that_stays_in_float_reads_its_own_weights(
    model: onnx.ModelProto, ranges: Ranges, symmetric: bool
) -> None:
    (layer,) = layer_groups(model)["roi_heads/box_head/fc7"]
    quantized = quantize(model, ranges, Recipe(symmetric=symmetric, float_layers=frozenset([layer])))
    node = next(node for node in quantized.graph.node if node.name == layer)
    before = next(node for node in model.graph.node if node.name == layer)
    assert layer not in in_int8(quantized.graph)
    assert list(node.input[1:]) == list(before.input[1:])


def test_with_every_layer_in_float_nothing_changes(model: onnx.ModelProto, ranges: Ranges) -> None:
    every = frozenset(name for names in layer_groups(model).values() for name in names)
    assert quantize(model, ranges, Recipe(float_layers=every)) == model


def test_all_but_the_graph_is_kept_and_the_float_model_too(model: onnx.ModelProto, ranges: Ranges) -> None:
    before = model.SerializeToString()
    quantized = quantize(model, ranges, Recipe())
    assert model.SerializeToString() == before
    for name in ("metadata_props", "functions", "producer_name", "producer_version", "ir_version"):
        assert getattr(quantized, name) == getattr(model, name), name
    assert quantized.graph.input == model.graph.input
    assert quantized.graph.output == model.graph.output


def test_symmetric_activations_are_int8_around_zero_and_biases_float(model: onnx.ModelProto, ranges: Ranges) -> None:
    quantized = quantize(model, ranges, Recipe(symmetric=True)).graph
    points = activation_zero_points(quantized)
    assert points and all(point.dtype == np.int8 and not point.any() for point in points)
    constants = {tensor.name: tensor for tensor in quantized.initializer}
    biases = [node.input[2] for node in quantized.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]
    assert biases and all(constants[name].data_type == onnx.TensorProto.FLOAT for name in biases)


def test_activations_of_processors_are_uint8_and_relu_is_a_part_of_the_range(
    model: onnx.ModelProto, ranges: Ranges
) -> None:
    quantized = quantize(model, ranges, Recipe()).graph
    assert {str(point.dtype) for point in activation_zero_points(quantized)} == {"uint8"}
    relus = {node.name for node in quantized.node if node.op_type == "Relu"}
    # those behind Gemm stay: its output is not quantised
    assert relus == {node.name for node in model.graph.node if node.op_type == "Relu" and "box_head" in node.name}


def test_a_range_is_the_mean_of_the_batches_extremes(model: onnx.ModelProto) -> None:
    low = np.zeros((1, 3, SIZE, SIZE), np.float32)
    high = low.copy()
    low[0, 0, 0, :2], high[0, 0, 0, :2] = (-1.0, 2.0), (-3.0, 5.0)
    ranges = calibrate(model, map(batch, (low, high)), threads=1)
    assert tuple(float(np.ravel(value)[0]) for value in ranges["images"].range_value) == (-2.0, 3.5)


def test_calibration_asks_for_images(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="expected images, got none"):
        calibrate(model, [], threads=1)


def test_an_identity_is_read_in_int8_by_the_sum_behind_a_convolution() -> None:
    """One residual block: TensorRT fuses the second convolution with the sum."""
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.2, (3, 3, 3, 3)).astype(np.float32), name) for name in ("w1", "w2")
    ]
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["images", "w1"], ["a"], name="block/1/Conv", pads=[1] * 4),
        make("Relu", ["a"], ["b"], name="block/Relu"),
        make("Conv", ["b", "w2"], ["c"], name="block/2/Conv", pads=[1] * 4),
        make("Add", ["c", "b"], ["d"], name="block/Add"),
    ]
    value = onnx.helper.make_tensor_value_info
    shape = [1, 3, SIZE, SIZE]
    graph = onnx.helper.make_graph(
        nodes,
        "block",
        [value("images", onnx.TensorProto.FLOAT, shape)],
        [value("d", onnx.TensorProto.FLOAT, shape)],
        weights,
        value_info=[value(name, onnx.TensorProto.FLOAT, shape) for name in "abc"],
    )
    block = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    inputs = [{"images": item["images"]} for item in batches()]
    ranges = calibrate(block, iter(inputs), threads=1)

    gpu = quantize(block, ranges, Recipe(symmetric=True)).graph
    made = makers(gpu)
    total = next(node for node in gpu.node if node.op_type == "Add")
    assert [made[name].op_type for name in total.input] == ["Conv", "DequantizeLinear"]

    cpu = quantize(block, ranges, Recipe())
    total = next(node for node in cpu.graph.node if node.op_type == "Add")
    made = makers(cpu.graph)
    assert [made[name].op_type for name in total.input] == ["DequantizeLinear"] * 2

    (expected,) = run(block, inputs[0])
    for quantized in (cpu, quantize(block, ranges, Recipe(symmetric=True))):
        (got,) = run(quantized, inputs[0])
        allowed = 0.3 if quantized is cpu and saturates() else 0.03
        assert 0 < np.abs(got - expected).mean() < allowed * np.abs(expected).mean()


def run(model: onnx.ModelProto, inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)
