"""The directive ``frcnn-operator``: inputs, outputs and attributes of an ONNX operator, as its ``SPEC`` states them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from frcnn.plugins import OPERATORS


class Operator(SphinxDirective):
    """An operator's summary and two tables."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return what the operator's spec says."""
        spec = OPERATORS[self.arguments[0]]
        tensors = [("input", tensor) for tensor in spec.inputs] + [("output", tensor) for tensor in spec.outputs]
        rows = [
            (way, tensor.name + ("_0, …" if tensor.variadic else ""), tensor.element, f"({', '.join(tensor.shape)})")
            for way, tensor in tensors
        ]
        attributes = [(attribute.name, attribute.kind, attribute.meaning) for attribute in spec.attributes]
        return [
            nodes.paragraph("", spec.summary),
            table(("", "name", "type", "shape"), rows, literal=(1, 2, 3)),
            table(("attribute", "type", "meaning"), attributes, literal=(0, 1)),
        ]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, literal: Sequence[int]) -> nodes.table:
    """Return a table.

    Args:
        columns: their names.
        rows: their texts.
        literal: the columns whose texts are code.
    """

    def row(texts: Sequence[str], literal: Sequence[int] = ()) -> nodes.row:
        entries = (
            nodes.entry("", nodes.paragraph("", "", nodes.literal("", text) if place in literal else nodes.Text(text)))
            for place, text in enumerate(texts)
        )
        return nodes.row("", *entries)

    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in columns), cols=len(columns))
    group += nodes.thead("", row(columns))
    group += nodes.tbody("", *(row(texts, literal) for texts in rows))
    return nodes.table("", group, classes=["colwidths-auto"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known to Sphinx."""
    app.add_directive("frcnn-operator", Operator)
    return {"parallel_read_safe": True}
