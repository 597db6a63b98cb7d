"""Sizes as text, like ``"16*T*(T + 1)"``, evaluated with integers or with TensorRT's symbolic ones.

Shapes, launch grids and integer arguments of the kernels are such expressions: names, whole numbers, ``+ - * //``,
parentheses, ``min``, ``max`` and ``ceil_div``. One text serves Python, TensorRT and a manifest.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Generic, TypeVar

Value = TypeVar("Value")

_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic(Generic[Value]):
    """Arithmetic on plain integers, or on symbols that have Python's operators."""

    constant: Callable[[int], Value]
    ceil_div: Callable[[Value, Value], Value]
    minimum: Callable[[Value, Value], Value]
    maximum: Callable[[Value, Value], Value]


INTEGERS: Arithmetic[int] = Arithmetic(constant=int, ceil_div=lambda a, b: -(-a // b), minimum=min, maximum=max)


def evaluate(text: str, sizes: Mapping[str, Value], arithmetic: Arithmetic[Value]) -> Value:
    """Evaluate an expression with a value for every name in it; raise ValueError for text that is none."""
    functions = {"ceil_div": arithmetic.ceil_div, "min": arithmetic.minimum, "max": arithmetic.maximum}

    def value(node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int(number)):
                return arithmetic.constant(number)
            case ast.Name(id=name) if name in sizes:
                return sizes[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                result: Value = _OPERATORS[type(op)](value(left), value(right))
                return result
            case ast.Call(func=ast.Name(id=name), args=[first, second], keywords=[]) if name in functions:
                return functions[name](value(first), value(second))
        known = ", ".join(sorted(sizes)) or "none"
        raise ValueError(f"not a size: {ast.unparse(node)!r} in {text!r}; known names: {known}")

    return value(_parse(text))


@cache
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
