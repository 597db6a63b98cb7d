"""Sizes as text: ``"16*T*(T + 1)"``, read once and computed with integers or with TensorRT's symbolic ones.

Shapes, launch grids and integer arguments of the kernels are stated in this little language: names, whole numbers,
``+ - * //``, parentheses, ``min``, ``max`` and ``ceil_div``. One text then serves Python, TensorRT and a manifest.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

__all__ = ["INTEGERS", "Arithmetic", "evaluate", "names_in"]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic(Generic[Value]):
    """How to compute: with plain integers, or with symbols that a builder keeps."""

    constant: Callable[[int], Value]
    add: Callable[[Value, Value], Value]
    subtract: Callable[[Value, Value], Value]
    multiply: Callable[[Value, Value], Value]
    floor_div: Callable[[Value, Value], Value]
    ceil_div: Callable[[Value, Value], Value]
    minimum: Callable[[Value, Value], Value]
    maximum: Callable[[Value, Value], Value]


INTEGERS: Arithmetic[int] = Arithmetic(
    constant=int,
    add=lambda a, b: a + b,
    subtract=lambda a, b: a - b,
    multiply=lambda a, b: a * b,
    floor_div=lambda a, b: a // b,
    ceil_div=lambda a, b: -(-a // b),
    minimum=min,
    maximum=max,
)


def evaluate(text: str, sizes: Mapping[str, Value], arithmetic: Arithmetic[Value]) -> Value:
    """Compute an expression.

    Args:
        text: the expression.
        sizes: the value of every name in it.
        arithmetic: how to compute.

    Raises:
        ValueError: the text is no expression of this language, or a name has no value.
    """
    return _evaluate(_parse(text), text, sizes, arithmetic)


def names_in(text: str) -> frozenset[str]:
    """Return the names of sizes in an expression."""
    functions = {id(node.func) for node in ast.walk(_parse(text)) if isinstance(node, ast.Call)}
    return frozenset(n.id for n in ast.walk(_parse(text)) if isinstance(n, ast.Name) and id(n) not in functions)


@cache
def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"not a size: {text!r}") from error


def _evaluate(node: ast.expr, text: str, sizes: Mapping[str, Value], arithmetic: Arithmetic[Value]) -> Value:
    def inner(part: ast.expr) -> Value:
        return _evaluate(part, text, sizes, arithmetic)

    operations: dict[Any, Callable[[Value, Value], Value]] = {
        ast.Add: arithmetic.add,
        ast.Sub: arithmetic.subtract,
        ast.Mult: arithmetic.multiply,
        ast.FloorDiv: arithmetic.floor_div,
        "ceil_div": arithmetic.ceil_div,
        "min": arithmetic.minimum,
        "max": arithmetic.maximum,
    }
    match node:
        case ast.Constant(value=int(number)):
            return arithmetic.constant(number)
        case ast.Name(id=name) if name in sizes:
            return sizes[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in operations:
            return operations[type(op)](inner(left), inner(right))
        case ast.Call(func=ast.Name(id=name), args=[first, second], keywords=[]) if name in operations:
            return operations[name](inner(first), inner(second))
    raise ValueError(
        f"not a size: {ast.unparse(node)!r} in {text!r}; known names: {', '.join(sorted(sizes)) or 'none'}"
    )
