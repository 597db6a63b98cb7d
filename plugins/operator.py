"""The specification of a custom operator; every face of it is checked against this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import onnx

DOMAIN: Final = "frcnn"
VERSION: Final = 2

AttributeKind = Literal["int", "float", "floats"]
ElementType = Literal["float32", "int32", "int64", "float16", "bfloat16", "features"]
"""``features`` is float32, float16 or bfloat16, the same for every tensor of a node that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; its shape is in the letters of the room's docstring.

    A variadic one stands for one tensor per feature level, with the level appended to its name; variadic ones are last.
    """

    name: str
    element: ElementType
    shape: tuple[str, ...]
    variadic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A node attribute; required, unless files older than it have nodes without it: these mean its default."""

    name: str
    kind: AttributeKind
    meaning: str
    default: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """An operator of the domain ``frcnn``."""

    name: str
    summary: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]

    @property
    def qualified_name(self) -> str:
        """``frcnn::Name``, as PyTorch's exporter wants it."""
        return f"{DOMAIN}::{self.name}"

    def function(self, body: str, levels: int = 1) -> onnx.FunctionProto:
        """Return the ONNX function of a body in ONNX text, for a number of feature levels.

        An ONNX function has a fixed number of inputs; the body is in standard operators of opset 20.
        """
        import onnx.parser

        attributes = ", ".join(attribute.name for attribute in self.attributes)
        inputs, outputs = ", ".join(self.input_names(levels)), ", ".join(tensor.name for tensor in self.outputs)
        return onnx.parser.parse_function(
            f"""
            <domain: "{DOMAIN}", opset_import: ["" : 20]>
            {self.name} <{attributes}> ({inputs}) => ({outputs}) {{ {body} }}
            """
        )

    def with_defaults(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes of a node with those that it may lack."""
        defaults = {attribute.name: attribute.default for attribute in self.attributes}
        return {name: value for name, value in defaults.items() if value is not None} | dict(attributes)

    def levels_of(self, num_inputs: int) -> int:
        """Return the number of feature levels of a node with so many inputs; 0 where there is none with as many."""
        variadic = sum(tensor.variadic for tensor in self.inputs)
        fixed = len(self.inputs) - variadic
        if not variadic:
            return int(num_inputs == fixed)
        levels, rest = divmod(num_inputs - fixed, variadic)
        return 0 if rest else max(levels, 0)

    def input_names(self, levels: int) -> tuple[str, ...]:
        """Return the formal input names for a number of feature levels."""
        names: list[str] = []
        for tensor in self.inputs:
            names.extend(f"{tensor.name}_{i}" for i in range(levels)) if tensor.variadic else names.append(tensor.name)
        return tuple(names)
