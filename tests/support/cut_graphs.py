"""A model that was cut: held to what all cuts have in common, and run step by step beside the uncut one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import tensorrt_rtx
from numpy.typing import NDArray

from frcnn.exporter.graph.cut import CutNode, Piece, cut
from frcnn.exporter.graph.nodes import read_values
from support.exports import bare_session

Arrays = dict[str, NDArray[Any]]
RunOperator = Callable[[CutNode, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""Takes a cut node and every value that it reads, and returns every value that it makes."""


def piece_sessions(steps: Iterable[Piece | CutNode]) -> dict[Piece, Any]:
    """Return an ONNX Runtime session for each piece, for those who run the same steps more than once."""
    return {step: bare_session(step.model.SerializeToString()) for step in steps if isinstance(step, Piece)}


def run_cut(
    steps: Iterable[Piece | CutNode],
    feeds: Mapping[str, NDArray[Any]],
    run_operator: RunOperator,
    *,
    sessions: Mapping[Piece, Any] | None = None,
) -> Arrays:
    steps = tuple(steps)
    sessions = piece_sessions(steps) if sessions is None else sessions
    values: Arrays = dict(feeds)
    for step in steps:
        given = {name: values[name] for name in step.inputs}
        if isinstance(step, Piece):
            made = dict(zip(step.outputs, sessions[step].run(list(step.outputs), given), strict=True))
        else:
            made = dict(run_operator(step, given))
        assert set(made) == set(step.outputs)
        assert not set(made) & set(values), "made twice"
        values |= made
    return values


def by_onnxruntime(model: onnx.ModelProto) -> RunOperator:
    """Return a way to run the cut nodes of a model: each alone in ONNX Runtime, by its function body if it has one."""
    sessions: dict[tuple[Any, ...], Any] = {}

    def run(step: CutNode, given: Mapping[str, NDArray[Any]]) -> Arrays:
        kinds = {name: (np.dtype(value.dtype), value.ndim) for name, value in given.items()}
        key = (step, tuple(kinds.items()))
        if key not in sessions:
            sessions[key] = bare_session(_node_model(model, step, kinds).SerializeToString())
        return dict(zip(step.outputs, sessions[key].run(list(step.outputs), dict(given)), strict=True))

    return run


def _node_model(
    model: onnx.ModelProto, step: CutNode, kinds: Mapping[str, tuple[np.dtype[Any], int]]
) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), [None] * rank)
        for name, (dtype, rank) in kinds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in step.outputs]
    graph = onnx.helper.make_graph([step.node], "one_node", inputs, outputs)
    return onnx.helper.make_model(
        graph, functions=model.functions, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4)
    )


def run_whole(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    names = [value.name for value in model.graph.output]
    session = bare_session(model.SerializeToString())
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_equal(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    """Hold values to others of the same names bit by bit; there may be more."""
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def assert_computes_the_same(
    model: onnx.ModelProto, steps: Iterable[Piece | CutNode], sizes: Iterable[int] = (2, 5)
) -> None:
    """Hold the steps of a hand-made model to the model itself, on inputs of two sizes."""
    steps, run_operator = tuple(steps), by_onnxruntime(model)
    sessions = piece_sessions(steps)
    for n in sizes:
        feeds = random_feeds(model, n=n)
        assert_equal(run_cut(steps, feeds, run_operator, sessions=sessions), run_whole(model, feeds))


def parse(body: str, *, opset: int = 20, ir: int = 10, extra: str = "", functions: str = "") -> onnx.ModelProto:
    """Return a hand-made model from ONNX text: inputs, outputs and nodes, other domains, functions."""
    return onnx.parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}{extra}]> hand_made {body} {functions}'
    )


def parse_by_rtx(model: onnx.ModelProto) -> tuple[Any, Any]:
    """Return TensorRT-RTX's strongly typed network of a model, None if it refuses it, and its builder."""
    builder = tensorrt_rtx.Builder(tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt_rtx.OnnxParser(network, builder.logger)
    return network if parser.parse(model.SerializeToString()) else None, (builder, parser)


def random_feeds(model: onnx.ModelProto, *, n: int = 5) -> Arrays:
    """Return inputs of a hand-made model; its symbol ``M`` is one less than ``n``, and every other is ``n``."""
    rng = np.random.default_rng(n)
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds: Arrays = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or (n - 1 if dim.dim_param == "M" else n) for dim in kind.shape.dim]
        if value.name not in constants:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[value.name] = np.asarray(rng.standard_normal(shape) * 3, dtype)
    return feeds


def checked_cut(model: onnx.ModelProto, is_cut: Callable[[onnx.NodeProto], bool]) -> tuple[Piece | CutNode, ...]:
    """Cut a model and hold the result to what all cuts have in common."""
    before = model.SerializeToString()
    steps = cut(model, is_cut)
    assert model.SerializeToString() == before
    there = {value.name for value in model.graph.input}
    for step in steps:
        assert set(step.inputs) <= there
        assert not set(step.outputs) & there
        there |= set(step.outputs)
    needed = {value.name for value in model.graph.output}
    for step in reversed(steps):
        assert needed & set(step.outputs)
        if isinstance(step, Piece):
            assert set(step.outputs) <= needed
            _check_piece(step, is_cut)
        needed |= set(step.inputs)
    return steps


def _check_piece(piece: Piece, is_cut: Callable[[onnx.NodeProto], bool]) -> None:
    graph = piece.model.graph
    onnx.checker.check_model(piece.model, full_check=True)
    assert tuple(value.name for value in graph.input) == piece.inputs
    assert tuple(value.name for value in graph.output) == piece.outputs
    assert not any(map(is_cut, graph.node))
    used = {name for node in graph.node for name in read_values(node)}
    assert used >= {*piece.inputs, *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        assert (used | set(piece.outputs)).intersection(node.output)


def outline(steps: Iterable[Piece | CutNode]) -> str:
    """Return steps as text: ``Neg, Abs | Relu | Add``; the nodes of a piece are in their order."""
    return " | ".join(
        ", ".join(node.op_type for node in step.model.graph.node) if isinstance(step, Piece) else step.node.op_type
        for step in steps
    )


def flows(steps: Iterable[Piece | CutNode]) -> list[tuple[str, str]]:
    """Return what each step reads and what it makes, as text."""
    return [(" ".join(step.inputs), " ".join(step.outputs)) for step in steps]
