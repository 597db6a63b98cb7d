"""Values that depend on shapes only do not cross a cut; the types of those that do are stated or inferred."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from support.cut_graphs import assert_computes_the_same, checked_cut, flows, outline, parse
from support.operators import operator_model

from frcnn.errors import ExportError
from frcnn.exporter.graph.cut import CutNode, Piece, cut
from frcnn.plugins import DOMAIN, grouped_nms, multiscale_roi_pool


def cut_relu(model: onnx.ModelProto) -> tuple[Piece | CutNode, ...]:
    return checked_cut(model, lambda node: node.op_type == "Relu")


SUMS = "Shape, Gather, Unsqueeze, Concat"
FLOAT_SUMS = "Shape, Cast, Mul, Ceil, Cast, Constant"
# model -> (operators to cut at, outline, what each step reads and makes)
PIECES = {
    "sizes are computed in each piece that uses them": (
        """(float[N,3,M] x) => (float[N,P] y, float[N,P] z)
        <int64[1] minus = {-1}, int64 zero = {0}, int64[1] front = {0}>
        { all = Shape(x) n = Gather(all, zero) row = Unsqueeze(n, front) to = Concat <axis = 0> (row, minus)
          a = Neg(x) b = Relu(a) y = Reshape(b, to) z = Reshape(a, to) }""",
        ("Relu",),
        f"{SUMS}, Neg, Reshape | Relu | {SUMS}, Reshape",
        [("x", "a z"), ("a", "b"), ("x b", "y")],
    ),
    "so are floating-point sums of sizes": (
        """(float[N,3] x) => (float[P,Q] y, float[R,S] u) <float half = {0.5}>
        { s = Shape(x) f = Cast <to = 1> (s) h = Mul(f, half) r = Ceil(h) i = Cast <to = 7> (r)
          k = Constant <value_ints: ints = [0, 0]> () a = Neg(x) u = Slice(a, k, i) b = Relu(a) y = Slice(b, k, i) }""",
        ("Relu",),
        f"{FLOAT_SUMS}, Neg, Slice | Relu | {FLOAT_SUMS}, Slice",
        [("x", "a u"), ("a", "b"), ("x b", "y")],
    ),
    "Size is taken from a whole shape only": (
        """(float[N,3] x, float[3,N,2] z) => (float[N,3] y) <float[3,N] t, float[N,3] u, float[3,N] b>
        { t = Transpose(x) b = Relu(t) n = Size(t) k = Size(z) m = Add(n, k) c = Cast <to = 1> (m) d = Mul(b, c)
          y = Transpose(d) }""",
        ("Relu",),
        "Transpose | Relu | Size(b), Size(z), Add, Cast, Mul, Transpose",
        [("x", "t"), ("t", "b"), ("z b", "y")],
    ),
    "a shape that a cut node or an output needs is emitted once": (
        """(float[N,3] x) => (int64[2] s, float[N,3] y)
        { a = Neg(x) s = Shape(a) b = Expand(a, s) c = Relu(b) y = Expand(c, s) }""",
        ("Relu", "Expand"),
        "Neg, Shape(a) | Expand | Relu | Expand",
        [("x", "a s"), ("a s", "b"), ("b", "c"), ("c s", "y")],
    ),
    "a cut node is dropped if only its shape is needed and another value has it": (
        """(float[N,3] x, float[N,3] z) => (float[N,3] y) <float[N,3] a, float[N,3] b>
        { a = Relu(x) b = Relu(z) s = Shape(a) y = Expand(b, s) }""",
        ("Relu",),
        "Relu | Shape(b), Expand",
        [("z", "b"), ("b", "y")],
    ),
    # f reads y, whose shape stands in for that of u. But f is for c, whose shape k has.
    "a cut node is kept if its shape is needed after others are dropped": (
        """(float[N,3] x, float[N,3] z) => (float[N,3] out)
        <float[A,3] u, float[A,3] y, float[B,3] v, float[F,3] f, float[D,3] c, float[G,3] g, float[D,3] k>
        { u = Relu(x) y = Neg(z) v = Relu(z) f = Add(y, v) c = Relu(f)
          s = Shape(u) g = Expand(v, s) k = Relu(g) t = Shape(c) out = Expand(k, t) }""",
        ("Relu",),
        "Relu | Relu | Shape(u), Expand | Relu | Shape(k), Expand",
        [("x", "u"), ("z", "v"), ("u v", "g"), ("g", "k"), ("k", "out")],
    ),
}


@pytest.mark.parametrize("case", PIECES)
def test_values_that_depend_on_shapes_only_do_not_cross_a_cut(case):
    body, ops, pieces, expected = PIECES[case]
    model = parse(body)
    steps = checked_cut(model, lambda node: node.op_type in ops)
    assert outline(steps) == re.sub(r"\(\w+\)", "", pieces)
    measured = " ".join(re.findall(r"(?:Shape|Size)\(\w+\)", pieces))
    assert measured in ("", " ".join(filter(None, (measures(step) for step in steps if isinstance(step, Piece)))))
    assert flows(steps) == expected
    assert_computes_the_same(model, steps)


def shape_of(value: str, *, stated: str = "", opset: int = 20, inputs: str = "float[N,3,M] x") -> onnx.ModelProto:
    """Return a model whose second piece reads ``b``, and the shape of a value of the first piece or of the model."""
    return parse(
        f"""({inputs}) => (float[N,M] y)
        <{stated}> {{ t = Transpose <perm = [2, 1, 0]> (x) a = ReduceMax <keepdims = 0> (t, axis) b = Relu(a)
           {value} c = Expand(b, s) y = Transpose(c) }}""",
        opset=opset,
    )


AXIS = "int64[1] axis = {1}"
STATED = f"{AXIS}, float[M,3,N] t, float[M,N] a, float[M,N] b"

# what makes s -> (what it is in the second piece, what that piece reads)
MEASURED = {
    "the value itself, when it crosses anyway": ("s = Shape(b)", STATED, {}, "Shape(b)", "b"),
    "another of the same shape that crosses anyway": ("s = Shape(a)", STATED, {}, "Shape(b)", "b"),
    "a row of the sizes of one that crosses anyway": (
        "n = Shape <start = 2, end = 3> (t) m = Shape <end = 1> (t) s = Concat <axis = 0> (m, n)",
        STATED,
        {},
        "Shape<1:2>(b) Shape<0:1>(b)",
        "b",
    ),
    "sizes counted from the back": (
        "n = Shape <start = -1> (t) m = Shape <end = -2> (t) s = Concat <axis = 0> (m, n)",
        STATED,
        {},
        "Shape<1:2>(b) Shape<0:1>(b)",
        "b",
    ),
    "an input of the model before what would have to be made": (
        "p = Shape <start = 1> (t) k, n = Split <axis = 0, num_outputs = 2> (p) m = Shape <end = 1> (b) "
        "s = Concat <axis = 0> (m, n)",
        STATED,
        {"inputs": "float[N,3,M] x, float[3,N] z"},
        "Shape(z) Shape<:1>(b)",
        "z b",
    ),
    "an input of the model that is measured": (
        "n = Shape <end = 1> (x) m = Shape <start = 2> (x) s = Concat <axis = 0> (m, n)",
        f"{AXIS}, float[M,3,N] t, float[M,N] a, float[U,V] b",
        {},
        "Shape<:1>(x) Shape<2:>(x)",
        "x b",
    ),
    "the value itself, when no other is known to have its shape": (
        "s = Shape(a)",
        f"{AXIS}, float[M,3,N] t, float[M,N] a, float[U,V] b",
        {},
        "Shape(a)",
        "a b",
    ),
    "the value itself, when its shape is not stated": ("s = Shape(a)", f"{AXIS}, float[M,N] b", {}, "Shape(a)", "a b"),
    "the value itself, when a size is not known": (
        "s = Shape(a)",
        f"{AXIS}, float[M,?] a, float[M,?] b",
        {},
        "Shape(a)",
        "a b",
    ),
}


def measures(piece: Piece) -> str:
    texts = []
    for node in piece.model.graph.node:
        if node.op_type in ("Shape", "Size"):
            given = {attribute.name: attribute.i for attribute in node.attribute}
            span = f"<{given.get('start', '')}:{given.get('end', '')}>" if given else ""
            texts.append(f"{node.op_type}{span}({node.input[0]})")
    return " ".join(texts)


@pytest.mark.parametrize("case", MEASURED)
def test_a_piece_takes_a_shape_from_the_cheapest_value(case):
    value, stated, options, expected, reads = MEASURED[case]
    model = shape_of(value, stated=stated, **options)
    steps = cut_relu(model)
    first, _, second = steps
    assert measures(second) == expected
    assert " ".join(second.inputs) == reads
    assert set(first.outputs) == {"a"}
    assert_computes_the_same(model, steps)


@pytest.mark.parametrize(("opset", "expected"), [(13, "Shape(x) Shape(b)"), (15, "Shape<1:3>(b) Shape(b)")])
def test_before_opset_15_only_a_whole_shape_can_replace_another(opset, expected):
    model = parse(
        """(float[N,3] x) => (float[N,3] y) <float[1,N,3] a, float[1,N,3] b, int64[1] front = {0}>
        { a = Unsqueeze(x, front) b = Relu(a) s = Shape(x) r = Shape(a) c = Expand(b, r) y = Reshape(c, s) }""",
        opset=opset,
    )
    steps = cut_relu(model)
    assert measures(steps[2]) == expected
    assert_computes_the_same(model, steps)


def test_a_random_value_is_made_once():
    model = parse(
        """(float[N,3] x) => (float[N,3] y)
        { r = RandomUniform <shape = [3]> () n = Neg(r) a = Mul(x, n) b = Relu(a) y = Add(b, n) }"""
    )
    steps = cut_relu(model)
    assert outline(steps) == "RandomUniform, Neg, Mul | Relu | Add"
    assert flows(steps) == [("x", "n a"), ("a", "b"), ("n b", "y")]


@pytest.mark.parametrize(("op", "is_repeated"), [("Neg", True), ("RandomNormalLike", False)])
def test_a_function_is_repeated_if_its_nodes_are_deterministic(op, is_repeated):
    model = parse(
        "(float[N,3] x) => (float[N,3] y) <float[3] w = {2, 3, 5}> "
        "{ v = own.Like(w) a = Mul(x, v) b = Relu(a) y = Add(b, v) }",
        extra=', "own" : 1',
        functions=f'<domain: "own", opset_import: ["" : 20]> Like (a) => (b) {{ b = {op}(a) }}',
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [3]))
    assert outline(cut_relu(model)) == f"{op}, Mul | Relu | " + f"{op}, " * is_repeated + "Add"


def test_an_unknown_operator_is_not_repeated():
    model = parse(
        "(float[N,3] x) => (float[N,3] y) <float[3] v, float[3] w = {2, 3, 5}> "
        "{ v = own.Like(w) a = Mul(x, v) b = Relu(a) y = Add(b, v) }",
        extra=', "own" : 1',
    )
    assert outline(cut_relu(model)) == "Like, Mul | Relu | Add"


def dims(value: onnx.ValueInfoProto) -> list[int | str | None]:
    shape = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape]


def test_types_that_are_not_stated_are_inferred_without_the_weights():
    model = parse(
        """(float16[N,3,8] x) => (float[N,4000] y)
        { a = Neg(x) b = Relu(a) f = Cast <to = 1> (b) to = Constant <value_ints: ints = [-1, 24]> () c = Reshape(f, to)
          d = MatMul(c, w) e = Relu(d) y = Abs(e) }"""
    )
    weights = np.random.default_rng(0).standard_normal((24, 4000)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    first, _, second, _, third = cut_relu(model)
    values = {v.name: v for p in (first, second, third) for v in (*p.model.graph.input, *p.model.graph.output)}
    assert {name: value.type.tensor_type.elem_type for name, value in values.items()} == {
        "x": onnx.TensorProto.FLOAT16,
        "a": onnx.TensorProto.FLOAT16,
        "b": onnx.TensorProto.FLOAT16,
        "d": onnx.TensorProto.FLOAT,
        "e": onnx.TensorProto.FLOAT,
        "y": onnx.TensorProto.FLOAT,
    }
    assert dims(values["a"]) == dims(values["b"]) == ["N", 3, 8]
    assert dims(values["d"]) == dims(values["e"]) == [None, 4000]


def test_weights_in_another_file_need_not_be_there():
    model = parse("(float[N,3] x) => (float[N,3] y) { a = Mul(x, w) b = Relu(a) y = Abs(b) }")
    weight = onnx.TensorProto(name="w", dims=[3], data_type=onnx.TensorProto.FLOAT)
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="nowhere.bin")
    model.graph.initializer.append(weight)
    first, _, second = cut(model, lambda node: node.op_type == "Relu")
    assert list(first.model.graph.initializer) == [weight]
    assert dims(second.model.graph.input[0]) == ["N", 3]


def bare_operator(kind: int) -> onnx.ModelProto:
    """Return suppression whose result decides what is pooled, between ordinary nodes, with no type stated inside."""
    model = operator_model(
        multiscale_roi_pool.SPEC,
        multiscale_roi_pool.function(levels=2, output_size=(5, 6)),
        levels=2,
        features=kind,
        attributes={"output_height": 5, "output_width": 6, "spatial_scales": [0.25, 0.125], "level_thresholds": [50.0]},
    )
    model.functions.append(grouped_nms.function())
    graph = model.graph
    pooling = graph.node[0]
    graph.input.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["rois_0", "rois_1"]))
    pooling.input[0], pooling.output[0] = "chosen", "grids"
    suppression = onnx.helper.make_node("GroupedNMS", ["rois", "scores"], ["kept"], domain=DOMAIN, iou_threshold=0.5)
    last = onnx.helper.make_tensor("last", onnx.TensorProto.INT64, [1], [-1])
    nodes = [
        suppression,
        onnx.helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        onnx.helper.make_node("Mul", ["rois", "column"], ["chosen"]),
        pooling,
        onnx.helper.make_node("Neg", ["grids"], ["pooled"]),
    ]
    graph.initializer.append(last)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_types_of_our_operators_are_those_of_their_specs(kind):
    model = bare_operator(kind)
    steps = checked_cut(model, lambda node: node.domain == DOMAIN)
    assert outline(steps) == "GroupedNMS | Unsqueeze, Mul | MultiscaleRoIPool | Neg"
    kept, grids = steps[1].model.graph.input[1], steps[3].model.graph.input[0]
    assert (kept.name, kept.type.tensor_type.elem_type) == ("kept", onnx.TensorProto.FLOAT)
    assert dims(kept) == ["rois_0", "rois_1"]
    assert (grids.name, grids.type.tensor_type.elem_type) == ("grids", kind)
    assert dims(grids) == [None, "feature_0_1", 5, 6]
    assert not any(step.model.functions for step in steps if isinstance(step, Piece))


def test_a_graph_whose_types_cannot_be_inferred_is_one_line():
    model = parse("(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Relu(a) y = Neg(b) }")
    del model.opset_import[:]
    with pytest.raises(ExportError, match=r"ONNX cannot infer the types in the graph: .*No opset import") as caught:
        cut(model, lambda node: node.op_type == "Relu")
    assert "\n" not in caught.value.message
