"""Hand-made models, cut: the pieces, the values between them, and equal results."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.cut_graphs import (
    assert_computes_the_same,
    assert_equal,
    by_onnxruntime,
    checked_cut,
    flows,
    outline,
    parse,
    random_feeds,
    run_cut,
    run_whole,
)

from frcnn.errors import ExportError
from frcnn.exporter.graph.cut import CutNode, Piece, cut

CUTS = ("Relu", "Sum")


def cut_ops(model: onnx.ModelProto, *ops: str) -> tuple[Piece | CutNode, ...]:
    return checked_cut(model, lambda node: node.op_type in (ops or CUTS))


CHAIN = "(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Relu(a) c = Abs(b) d = Relu(c) y = Neg(d) }"
DIAMOND = "(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Relu(a) c = Abs(a) d = Add(b, c) y = Mul(d, x) }"
UNEVEN = """(float[N,3] x) => (float[N,3] y)
{ a = Relu(x) b = Neg(a) c = Relu(b) p = Abs(x) q = Relu(p) r = Neg(q) y = Add(c, r) }"""

# model -> (outline, what each step reads and makes)
SHAPES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "a chain": (CHAIN, "Neg | Relu | Abs | Relu | Neg", [("x", "a"), ("a", "b"), ("b", "c"), ("c", "d"), ("d", "y")]),
    "no cut": (
        "(float[N,3] x, float[N,3] z) => (float[N,3] y) { a = Neg(x) y = Add(a, z) }",
        "Neg, Add",
        [("x z", "y")],
    ),
    "nothing but cuts": (
        "(float[N,3] x) => (float[N,3] y) { a = Relu(x) b = Sum(a, x, a) y = Relu(b) }",
        "Relu | Sum | Relu",
        [("x", "a"), ("a x", "b"), ("b", "y")],
    ),
    "a diamond, whose other side needs no cut": (
        DIAMOND,
        "Neg, Abs | Relu | Add, Mul",
        [("x", "a c"), ("a", "b"), ("x b c", "y")],
    ),
    "cuts side by side": (
        "(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Relu(a) c = Abs(x) d = Relu(c) y = Add(b, d) }",
        "Neg, Abs | Relu | Relu | Add",
        [("x", "a c"), ("a", "b"), ("c", "d"), ("b d", "y")],
    ),
    "chains of one and two cuts, joined": (
        UNEVEN,
        "Abs | Relu | Relu | Neg, Neg | Relu | Add",
        [("x", "p"), ("x", "a"), ("p", "q"), ("a q", "b r"), ("b", "c"), ("c r", "y")],
    ),
    "cut results that are outputs, and used inside": (
        "(float[N,3] x) => (float[N,3] a, float[N,3] b, float[N,3] y) { a = Relu(x) b = Neg(a) y = Abs(b) }",
        "Relu | Neg, Abs",
        [("x", "a"), ("a", "b y")],
    ),
    "what no output needs": (
        """(float[N,3] x) => (float[N,2] y) <int64[2] two_one = {2, 1}>
           { i, z = Split <axis = 1> (x, two_one) y = Neg(i) u = Relu(z) v = Abs(u) two = Shape(v) }""",
        "Split, Neg",
        [("x", "y")],
    ),
    "an input that is an output": (
        "(float[N,3] x, float[N,3] y) => (float[N,3] y, float[N,3] z) { z = Relu(x) }",
        "Relu",
        [("x", "z")],
    ),
    "an optional input that is absent": (
        "(float[N,3] x, float most) => (float[N,3] y) { a = Relu(x) y = Clip(a, , most) }",
        "Relu | Clip",
        [("x", "a"), ("most a", "y")],
    ),
    "a weight on both sides of a cut": (
        "(float[N,3] x) => (float[N,3] y) <float[3] w = {2, 3, 5}> { a = Mul(x, w) b = Relu(a) y = Add(b, w) }",
        "Mul | Relu | Add",
        [("x", "a"), ("a", "b"), ("b", "y")],
    ),
    "a cut node that reads a weight": (
        "(float[N,3] x) => (float[N,3] y) <float[3] w = {2, 3, 5}> { a = Mul(x, w) b = Sum(a, w) y = Neg(b) }",
        "Identity, Mul | Sum | Neg",
        [("x", "w a"), ("a w", "b"), ("b", "y")],
    ),
    "a cut node that reads nothing else": (
        "(float[N,3] x) => (float[N,3] y) { c = Constant <value_float: float = -2.5> () s = Relu(c) y = Mul(x, s) }",
        "Constant | Relu | Mul",
        [("", "c"), ("c", "s"), ("x s", "y")],
    ),
    # w could be made before the first cut; s is not there before the second piece, which then makes both
    "a constant that a cut node reads, made by a piece that exists anyway": (
        """(float[N,3] x) => (float[N,3] y, int64[2] s) <float[3] w = {2, 3, 5}>
           { a = Relu(x) s = Shape(a) y = Sum(a, w) }""",
        "Relu | Identity, Shape | Sum",
        [("x", "a"), ("a", "w s"), ("a w", "y")],
    ),
    "a constant that two cut nodes read, made once": (
        "(float[N,3] x) => (float[N,3] y) <float[3] w = {2, 3, 5}> { a = Sum(x, w) b = Neg(a) y = Sum(b, w) }",
        "Identity | Sum | Neg | Sum",
        [("", "w"), ("x w", "a"), ("a", "b"), ("b w", "y")],
    ),
    "an output that is a constant": (
        "(float[N,3] x) => (float[N,3] y, float[3] w) <float[3] w = {2, 3, 5}> { a = Relu(x) y = Neg(a) }",
        "Relu | Identity, Neg",
        [("x", "a"), ("a", "w y")],
    ),
}
"""The order of a step's inputs is that in which the model makes them; a cut node's is its own."""


@pytest.mark.parametrize("case", SHAPES)
def test_a_model_is_cut_into_the_fewest_pieces_and_computes_the_same(case):
    body, pieces, expected = SHAPES[case]

    model = parse(body)
    steps = cut_ops(model)
    assert outline(steps) == pieces
    assert flows(steps) == expected
    assert_computes_the_same(model, steps)


def test_inputs_and_outputs_are_in_the_order_in_which_the_model_makes_them():
    model = parse(
        """(float[N,3] x2, float[N,3] x1) => (float[N,3] y)
        {  a = Neg(x1) b = Abs(x2) c = Relu(b) d = Add(x2, a)
           e = Add(x1, c) f = Add(e, b) g = Add(f, d) y = Add(g, a) }"""
    )
    first, _, second = cut_ops(model)
    assert (first.inputs, first.outputs) == (("x2", "x1"), ("a", "b", "d"))
    assert (second.inputs, second.outputs) == (("x1", "a", "b", "c", "d"), ("y",))


def test_constants_that_are_emitted_are_in_the_order_of_the_model():
    names = [f"w{i}" for i in (5, 2, 7, 1, 4, 6, 3)]
    weights = ", ".join(f"float[3] {name} = {{1, 2, 3}}" for name in names)
    model = parse(f"(float[N,3] x) => (float[N,3] y) <{weights}> {{ y = Sum(x, {', '.join(sorted(names))}) }}")
    first, _ = cut_ops(model)
    assert first.outputs == tuple(names)
    assert [tensor.name for tensor in first.model.graph.initializer] == [f"{name}/constant" for name in names]


def test_a_weight_is_copied_unchanged_to_the_pieces_that_use_it():
    model = parse(
        """(float[N,3] x) => (float[N,3] y) <float[3] w = {2, 3, 5}, float[3] v = {7, 8, 9}, float[1] unused = {0}>
        { a = Mul(x, w) b = Relu(a) c = Add(b, v) y = Add(c, w) }"""
    )
    first, _, second = cut_ops(model)
    w, v, _ = model.graph.initializer
    assert list(first.model.graph.initializer) == [w]
    assert list(second.model.graph.initializer) == [w, v]


def test_sizes_symbols_and_versions_are_kept():
    model = parse(
        "(float[N,3,H] x) => (float[N,3,H] y) <float[N,3,H] b> { a = Neg(x) b = Relu(a) y = Abs(b) }", opset=17
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 3, "H"]))
    model.producer_name = "maker"
    for piece in (step for step in cut_ops(model) if isinstance(step, Piece)):
        for value in (*piece.model.graph.input, *piece.model.graph.output):
            assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == ["N", 3, "H"]
        assert [(opset.domain, opset.version) for opset in piece.model.opset_import] == [("", 17)]
        assert (piece.model.ir_version, piece.model.producer_name) == (10, "maker")
        assert piece.model.graph.name in ("hand_made_0", "hand_made_1")


def test_value_infos_follow_their_values():
    model = parse(
        "(float[N,3] x) => (float[N,3] y) <float[N,3] a, float[N,3] b, float[N,3] c, float[N,3] d> "
        "{ a = Neg(x) b = Abs(a) c = Relu(b) d = Neg(c) y = Abs(d) }"
    )
    first, _, second = cut_ops(model)
    assert [value.name for value in first.model.graph.value_info] == ["a"]
    assert [value.name for value in second.model.graph.value_info] == ["d"]


def test_an_initializer_among_the_inputs_is_a_constant():
    """As every model of IR version 3 has it."""
    model = parse(
        """(float[N,3] x, float[3] w) => (float[N,3] y) <float[3] w = {2, 3, 5}>
        { a = Mul(x, w) b = Relu(a) y = Mul(b, w) }""",
        opset=8,
        ir=3,
    )
    onnx.checker.check_model(model)
    steps = cut_ops(model)
    assert flows(steps) == [("x", "a"), ("a", "b"), ("b", "y")]
    assert_computes_the_same(model, steps)


def test_the_new_name_of_an_emitted_constant_is_unique():
    model = parse(
        """(float[N,3] x) => (float[N,3] y) <float[3] w = {2, 3, 5}, float[3] z = {1, 1, 1}>
        { a = Mul(x, z) y = Sum(a, w) }"""
    )
    model.graph.initializer[1].name = model.graph.node[0].input[1] = "w/constant"
    steps = cut_ops(model)
    assert [tensor.name for tensor in steps[0].model.graph.initializer] == ["w/constant_2", "w/constant"]
    assert_computes_the_same(model, steps)


BRANCHES = """(float[N,3] x, bool yes) => (float[N,3] y) <float[3] w = {2, 3, 5}>
{ a = Neg(x) b = Relu(a) c = Abs(x)
  d = If (yes) <
    then_branch = yes_graph () => (float[N,3] t) { s = Mul(c, w) t = Add(s, b) },
    else_branch = no_graph () => (float[N,3] e) { i = Constant <value_float: float = 2.0> () e = Mul(x, i) }
  >
  y = Neg(d) }"""


@pytest.mark.parametrize("yes", [True, False])
def test_a_value_that_a_branch_captures_is_an_input(yes):
    model = parse(BRANCHES)
    steps = cut_ops(model)
    assert outline(steps) == "Neg, Abs | Relu | If, Neg"
    assert flows(steps) == [("x", "a c"), ("a", "b"), ("x yes b c", "y")]
    assert [tensor.name for tensor in steps[2].model.graph.initializer] == ["w"]
    feeds = random_feeds(model) | {"yes": np.array(yes)}
    assert_equal(run_cut(steps, feeds, by_onnxruntime(model)), run_whole(model, feeds))


@pytest.mark.parametrize("yes", [True, False])
def test_a_cut_node_may_have_branches_of_its_own(yes):
    model = parse(BRANCHES)
    steps = cut_ops(model, "If")
    assert outline(steps) == "Identity, Neg, Relu, Abs | If | Neg"
    assert steps[1].inputs == ("yes", "c", "w", "b", "x")
    feeds = random_feeds(model) | {"yes": np.array(yes)}
    assert_equal(run_cut(steps, feeds, by_onnxruntime(model)), run_whole(model, feeds))


FUNCTIONS = """
<domain: "own", opset_import: ["" : 20, "other" : 1]> Outer (a) => (b) { c = other.Inner(a) b = Neg(c) }
<domain: "other", opset_import: ["" : 20, "third" : 1]> Inner (a) => (b) { b = Abs(a) }
<domain: "own", opset_import: ["" : 20]> Cut (a) => (b) { two = Constant <value_float: float = 2.0> () b = Mul(a, two) }
"""


@pytest.mark.parametrize(
    ("op", "expected"), [("Cut", "Neg | Cut | Abs, Neg"), ("Abs", "Neg, Constant, Mul | Abs | Neg")]
)
def test_functions_are_inlined_except_those_of_cut_nodes(op, expected):
    model = parse(
        "(float[N,3] x) => (float[N,3] y) <float[N,3] b> { a = Neg(x) b = own.Cut(a) y = own.Outer(b) }",
        extra=', "own" : 1, "other" : 1, "third" : 1, "fourth" : 1',
        functions=FUNCTIONS,
    )
    steps = cut_ops(model, op)
    assert outline(steps) == expected
    for piece in (step for step in steps if isinstance(step, Piece)):
        assert not piece.model.functions
        assert [opset.domain for opset in piece.model.opset_import] == [""]
    assert_computes_the_same(model, steps)


REFUSED = {
    "a cut node in a branch": (
        lambda: parse(BRANCHES),
        ("Mul",),
        "node 's' is in a subgraph; expected it in the main graph",
    ),
    "a result of unknown type": (
        lambda: parse(
            "(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = strange.Thing(a) y = Abs(b) }", extra=', "strange" : 1'
        ),
        ("Thing",),
        "the element type or the number of dimensions of the output 'b' of node 'b' is not known",
    ),
    "nodes out of order": (
        lambda: parse(CHAIN.replace("b = Relu(a)", "b = Relu(c)")),
        (),
        "node 'b' reads 'c', which nothing before it makes",
    ),
    "a value made twice": (
        lambda: parse(DIAMOND.replace("c = Abs(a)", "b = Abs(a)").replace("Add(b, c)", "Add(b, a)")),
        (),
        "node 'b' makes 'b', which is made already",
    ),
    "an output from nowhere": (
        lambda: parse("(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Neg(x) }"),
        (),
        "nothing makes the model's output 'z'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_cut_is_refused(case):
    make, ops, message = REFUSED[case]
    with pytest.raises(ExportError) as caught:
        cut(make(), lambda node: node.op_type in (ops or CUTS))
    assert caught.value.message == message
