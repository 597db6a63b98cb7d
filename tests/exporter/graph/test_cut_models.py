"""Exported models, cut at our operators: the steps compute what the model does, and TensorRT-RTX reads every piece."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tensorrt_rtx
from support.cut_graphs import (
    assert_computes_the_same,
    assert_equal,
    by_onnxruntime,
    checked_cut,
    parse,
    parse_by_rtx,
    piece_sessions,
    run_cut,
)
from support.exports import run_bare
from support.families import FAMILIES
from support.images import LANDSCAPE, PORTRAIT, network_input

from frcnn.exporter.graph.cut import CutNode, Piece
from frcnn.plugins import DOMAIN
from frcnn.spec.engine import INPUTS, OUTPUTS

EXPORTED = [("vgg16", "fp32"), ("resnet50_fpn", "fp16")]


def cut_ours(model: onnx.ModelProto) -> tuple[Piece | CutNode, ...]:
    return checked_cut(model, lambda node: node.domain == DOMAIN)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_steps_give_the_outputs_of_the_model(family, exports):
    """In float32. In half precision ONNX Runtime omits roundings that a cut needs."""
    export = exports(family)
    model = onnx.load(export.path)
    steps = cut_ours(model)
    assert [isinstance(step, Piece) for step in steps] == [True, False] * 3 + [True]
    sessions, run_operator = piece_sessions(steps), by_onnxruntime(model)
    for shape, batch in ((LANDSCAPE, 3), (PORTRAIT, 1)):
        images, sizes = network_input(export.model, export.spec, shape)
        expected = run_bare(exports.session(export), images[:batch], sizes[:batch])
        feeds = dict(zip(INPUTS, (images[:batch].numpy(), np.array(sizes[:batch], np.int32)), strict=True))
        found = run_cut(steps, feeds, run_operator, sessions=sessions)
        assert expected[0].min() > 5
        assert_equal(found, dict(zip(OUTPUTS, expected, strict=True)))


@pytest.mark.parametrize(("family", "precision"), EXPORTED)
def test_values_between_the_steps_have_types_and_sizes_and_are_not_shapes(family, precision, exports):
    steps = cut_ours(onnx.load(exports(family, precision).path))
    heavy = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT
    pieces = [step for step in steps if isinstance(step, Piece)]
    for piece in pieces:
        for value in (*piece.model.graph.input, *piece.model.graph.output):
            kind = value.type.tensor_type
            assert kind.elem_type in {heavy, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
            assert "batch" in kind.shape.dim[0].dim_param, value.name
            assert all(dim.dim_value or dim.dim_param for dim in kind.shape.dim), value.name
    assert (pieces[0].inputs, set(pieces[-1].outputs)) == (INPUTS, set(OUTPUTS))
    (pooling,) = (step for step in steps if isinstance(step, CutNode) and step.node.op_type != "GroupedNMS")
    assert set(pooling.node.input[1:]) <= set(pieces[0].outputs)


def test_every_weight_is_in_one_piece(exports):
    model = onnx.load(exports("vgg16").path)
    pieces = [step for step in cut_ours(model) if isinstance(step, Piece)]
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) > 1}
    found = [tensor for piece in pieces for tensor in piece.model.graph.initializer if tensor.name in weights]
    assert len(found) == len(weights) > 10
    assert all(tensor == weights[tensor.name] for tensor in found)


def assert_parses_with_the_same_types(piece: Piece) -> None:
    types = {
        tensorrt_rtx.DataType.FLOAT: onnx.TensorProto.FLOAT,
        tensorrt_rtx.DataType.HALF: onnx.TensorProto.FLOAT16,
        tensorrt_rtx.DataType.INT32: onnx.TensorProto.INT32,
        tensorrt_rtx.DataType.BOOL: onnx.TensorProto.BOOL,
    }
    network, _builder = parse_by_rtx(piece.model)
    assert network is not None
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    stated = {v.name: v.type.tensor_type for v in (*piece.model.graph.input, *piece.model.graph.output)}
    assert tuple(tensor.name for tensor in inputs) == piece.inputs
    assert tuple(tensor.name for tensor in outputs) == piece.outputs
    for tensor in (*inputs, *outputs):
        assert types[tensor.dtype] == stated[tensor.name].elem_type, tensor.name
        assert len(tensor.shape) == len(stated[tensor.name].shape.dim), tensor.name
        assert not tensor.is_shape_tensor, tensor.name


@pytest.mark.parametrize(("family", "precision"), EXPORTED)
def test_tensorrt_rtx_parses_every_piece(family, precision, exports):
    model = onnx.load(exports(family, precision).path)
    pieces = [step for step in cut_ours(model) if isinstance(step, Piece)]
    assert len(pieces) == 4
    for piece in pieces:
        assert_parses_with_the_same_types(piece)


def test_tensorrt_rtx_parses_pieces_that_emit_a_weight_or_compute_sizes():
    model = parse(
        """(float[N,3] x) => (float[N,3] y) <float[N,3] a, float[N,3] b, float[3] w = {2, 3, 5}>
        { a = Neg(x) s = Shape(x) b = Sum(a, w) c = Reshape(b, s) d = Expand(w, s) y = Add(c, d) }"""
    )
    steps = checked_cut(model, lambda node: node.op_type == "Sum")
    first, _, second = steps
    assert (first.outputs, second.inputs) == (("w", "a"), ("b",))
    assert_parses_with_the_same_types(first)
    assert_parses_with_the_same_types(second)
    assert_computes_the_same(model, steps)
