"""Each form of ``model.onnx``, with functions and inlined, in every reader that runs without a GPU.

``docs/reference/formats.md`` has the table. Where a reader fails a test says so, so that we notice a change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_non_max_suppression
from support.exports import bare_session
from support.processor import saturates
from support.quantized import quantized

from frcnn.exporter.graph.inline import inline_operators
from frcnn.runtime.dependencies import openvino_core

Arrays = dict[str, NDArray[Any]]
FORMS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "functions": lambda model: model,
    "inlined": inline_operators,
}


@pytest.fixture(params=FORMS)
def model(request, tiny_model) -> onnx.ModelProto:
    """Return the model in both forms."""
    return FORMS[request.param](onnx.load(tiny_model))


@pytest.fixture(scope="module")
def feeds() -> Arrays:
    """Return two images of noise."""
    pixels = np.random.default_rng(7).normal(size=(2, 3, 32, 64)).astype(np.float32)
    return {"images": pixels, "image_sizes": np.array([[32, 64], [32, 48]], np.int32)}


@pytest.fixture(scope="module")
def expected(tiny_model, feeds) -> list[NDArray[Any]]:
    """Return the outputs in ONNX Runtime of the file as it was exported."""
    outputs: list[NDArray[Any]] = bare_session(tiny_model).run(None, feeds)
    assert outputs[0].min() > 3
    return outputs


def assert_agree(found: list[Any], expected: list[NDArray[Any]]) -> None:
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-4)


def test_onnx_checks_it(model):
    onnx.checker.check_model(model, full_check=True)


def test_onnx_runtime_runs_it(model, feeds, expected):
    assert_agree(bare_session(model.SerializeToString()).run(None, feeds), expected)


class GatherElements(OpRun):
    """ONNX's reference gathers from 64 values or fewer only (onnx 1.23)."""

    def _run(self, data: NDArray[Any], indices: NDArray[Any], axis: int = 0) -> tuple[NDArray[Any]]:
        return (np.take_along_axis(data, indices, axis),)


class NonMaxSuppression(op_non_max_suppression.NonMaxSuppression):  # type: ignore[misc]
    """ONNX's reference takes thresholds of one dimension only, the standard scalars, too (onnx 1.23)."""

    def _run(self, boxes: Any, scores: Any, most: Any, iou: Any, score: Any = None, **attributes: Any) -> Any:
        numbers = [None if value is None else np.atleast_1d(value) for value in (most, iou, score)]
        return super()._run(boxes, scores, *numbers, **attributes)


class Evaluator(onnx.reference.ReferenceEvaluator):
    """ONNX's reference implementation with two operators as the standard has them, in functions, too."""

    def __init__(self, proto: Any, **options: Any) -> None:
        super().__init__(proto, **{"new_ops": [GatherElements, NonMaxSuppression], **options})


def test_onnx_reference_runs_it_with_two_operators_corrected(model, feeds, expected):
    assert_agree(Evaluator(model).run(None, feeds), expected)
    with pytest.raises(ValueError, match="cannot reshape array of size"):
        onnx.reference.ReferenceEvaluator(model).run(None, feeds)


def run_in_openvino(model: onnx.ModelProto, feeds: Arrays) -> list[Any]:
    pytest.importorskip("openvino")
    with openvino_core() as core:
        read = core.read_model(model.SerializeToString())
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(feeds).values())


def test_openvino_runs_the_inlined_model_only(tiny_model, feeds, expected):
    model = onnx.load(tiny_model)
    assert_agree(run_in_openvino(inline_operators(model), feeds), expected)
    with pytest.raises(RuntimeError, match=r"No conversion rule found for operations: frcnn\.BoxDetections"):
        run_in_openvino(model, feeds)


def test_tensorrt_rtx_parses_neither(model):
    """Its networks are read alone, see ``frcnn build``: TensorRT-RTX has no NonZero, whose shape depends on data."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse(model.SerializeToString())
    assert "NonZero plugin creator" in parser.get_error(0).desc()


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_models_run_where_float_models_do(symmetric, tiny_model, feeds):
    model = onnx.load(quantized(tiny_model, symmetric=symmetric))
    inlined = inline_operators(model)
    onnx.checker.check_model(inlined, full_check=True)
    expected = bare_session(model.SerializeToString()).run(None, feeds)
    assert_agree(bare_session(inlined.SerializeToString()).run(None, feeds), expected)
    counts, _, scores, _ = run_in_openvino(inlined, feeds)
    assert np.array_equal(counts, expected[0])
    steps = 0.3 if saturates() else 0.1  # values round to other steps of int8
    np.testing.assert_allclose(scores, expected[2], rtol=0, atol=steps)
