"""Random graphs, cut: the number of pieces follows from the longest chain of cuts, and the outputs are equal."""

from __future__ import annotations

from functools import cache
from random import Random

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cut_graphs import assert_computes_the_same, checked_cut

from frcnn.exporter.graph.cut import CutNode, Piece

pytestmark = pytest.mark.slow

CUTS = ("Relu", "Sum")
UNARY = ("Relu", "Relu", "Neg", "Abs")
BINARY = ("Sum", "Sub", "Mul", "Max")
WIDE, NARROW = 4, 2


def is_cut(node: onnx.NodeProto) -> bool:
    return node.op_type in CUTS


class Maker:
    """Makes a graph node by node; values are (n, 4) or (n, 2) float32, and sizes are int64 vectors."""

    def __init__(self, rng: Random, *, with_constants: bool) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.wide, self.narrow, self.sizes = ["x", "z"], ["p"], list[str]()
        self.constants = ["weight"] if with_constants else []
        self.kinds = ["unary"] * 3 + ["binary"] * 3 + ["split", "join"]
        self.kinds += ["shape", "shape", "largest", "expand", "expand", "expand", "constant"] * with_constants

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
        return names

    def step(self) -> None:
        """Add a node of some kind, most often a reader of what was made last, so that there are long chains."""
        kind = self.rng.choice(self.kinds)
        pool = self.wide if self.rng.random() < 0.7 else self.narrow
        if kind == "unary":
            pool += self.add(self.rng.choice(UNARY), [self.one_of(pool)])
        elif kind == "binary":
            others = pool + (self.constants if pool is self.wide else [])
            pool += self.add(self.rng.choice(BINARY), [self.one_of(pool), self.one_of(others)])
        elif kind == "split":
            self.narrow += self.add("Split", [self.one_of(self.wide)], 2, axis=1, num_outputs=2)
        elif kind == "join":
            self.wide += self.add("Concat", [self.one_of(self.narrow), self.one_of(self.narrow)], axis=1)
        elif kind == "shape":
            self.sizes += self.add("Shape", [self.one_of(self.wide)])
        elif kind == "largest" and self.sizes:
            self.sizes += self.add("Max", [self.one_of(self.sizes), self.one_of(self.sizes)])
        elif kind == "expand" and self.sizes:
            read = self.wide if self.rng.random() < 0.5 else self.constants
            self.wide += self.add("Expand", [self.one_of(read), self.one_of(self.sizes)])
        elif kind == "constant":
            self.constants += self.add("Neg", [self.one_of(self.constants)])

    def one_of(self, names: list[str]) -> str:
        return self.rng.choice(names[-3:] if self.rng.random() < 0.6 else names)

    def model(self) -> onnx.ModelProto:
        made = [*self.wide[2:], *self.narrow[1:]]
        outputs = list(dict.fromkeys([self.wide[-1], self.narrow[-1], *self.rng.sample(made, min(2, len(made)))]))
        weight = onnx.helper.make_tensor("weight", onnx.TensorProto.FLOAT, [1, WIDE], [0.5, -2.0, 3.0, -0.25])
        graph = onnx.helper.make_graph(
            self.nodes,
            "random",
            [self.value("x"), self.value("z"), self.value("p")],
            [self.value(name) for name in outputs],
            initializer=[weight],
            value_info=[self.value(name) for name in made if name not in outputs and self.rng.random() < 0.5],
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)

    def value(self, name: str) -> onnx.ValueInfoProto:
        columns = NARROW if name in self.narrow else WIDE
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", columns])


def models(*, with_constants: bool) -> st.SearchStrategy[onnx.ModelProto]:
    def make(rng: Random, steps: int) -> onnx.ModelProto:
        maker = Maker(rng, with_constants=with_constants)
        for _ in range(steps):
            maker.step()
        return maker.model()

    return st.builds(make, st.randoms(use_true_random=True), st.integers(1, 35))


class Chains:
    """The number of cuts on the longest path to a value, computed from its definition."""

    def __init__(self, model: onnx.ModelProto) -> None:
        makers = {name: node for node in model.graph.node for name in node.output}

        @cache
        def cuts_before(name: str) -> int:
            return cuts_at(makers[name].output[0]) + is_cut(makers[name]) if name in makers else 0

        @cache
        def cuts_at(name: str) -> int:
            return max((cuts_before(read) for read in makers[name].input), default=0)

        live: set[str] = set()

        def visit(name: str) -> None:
            if name in makers and not live.issuperset(makers[name].output):
                live.update(makers[name].output)
                for read in makers[name].input:
                    visit(read)

        for output in model.graph.output:
            visit(output.name)
        nodes = [node for node in model.graph.node if node.output[0] in live]
        self.stages = {cuts_at(node.output[0]) for node in nodes if not is_cut(node)}
        self.longest = max((cuts_before(output.name) for output in model.graph.output), default=0)
        self.cuts = sum(map(is_cut, nodes))
        self.others = len(nodes) - self.cuts


@settings(max_examples=150)
@given(models(with_constants=False))
def test_there_is_one_piece_for_each_stage_with_nodes(model):
    steps = checked_cut(model, is_cut)
    chains = Chains(model)
    pieces = [step for step in steps if isinstance(step, Piece)]
    assert len(pieces) == len(chains.stages) <= chains.longest + 1
    assert sum(isinstance(step, CutNode) for step in steps) == chains.cuts
    assert sum(len(piece.model.graph.node) for piece in pieces) == chains.others
    assert_computes_the_same(model, steps, sizes=[3])


@settings(max_examples=150)
@given(models(with_constants=True))
def test_sizes_do_not_cross_cuts_and_the_outputs_are_equal(model):
    steps = checked_cut(model, is_cut)
    pieces = [step for step in steps if isinstance(step, Piece)]
    assert len(pieces) <= Chains(model).longest + 1
    kinds = {value.type.tensor_type.elem_type for piece in pieces for value in piece.model.graph.input}
    assert kinds <= {onnx.TensorProto.FLOAT}
    assert_computes_the_same(model, steps, sizes=[3])
