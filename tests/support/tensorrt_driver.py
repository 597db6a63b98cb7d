"""NVIDIA's own plugin code, driven as TensorRT's builder drives it; imported in a process of ``tensorrt_contract``.

TensorRT's C++ asks a plugin for types, then shapes, then combinations, then the launch. The order here is the same and
the Python on the other side is NVIDIA's; only the symbols of sizes, which C++ makes, are stand-ins.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np

# NVIDIA's source of 11.2 has the escape "\s", a DeprecationWarning of Python 3.11 and a SyntaxWarning of later ones.
warnings.filterwarnings("ignore", r".*invalid escape sequence", module=r".*tensorrt_bindings\b")
if importlib.util.find_spec("tensorrt") is None:  # NVIDIA's plugin code imports it by the users' name of the package
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
trt: Any = importlib.import_module("tensorrt")
trtp: Any = importlib.import_module("tensorrt_bindings.plugin")
for _name in [name for name in sys.modules if name.startswith("tensorrt_bindings.")]:
    sys.modules[_name.replace("tensorrt_bindings", "tensorrt", 1)] = sys.modules[_name]
_tensor: Any = sys.modules["tensorrt.plugin._tensor"]
_lib: Any = sys.modules["tensorrt.plugin._lib"]


class Symbol(trt.IDimensionExpr):
    """A size: its value, and whether TensorRT knows it at build time; an open size has nonsense as its constant."""

    value: int
    known: bool

    @classmethod
    def of(cls, value: int, *, known: bool) -> Symbol:
        symbol = cls.__new__(cls)  # C++ alone may call the constructor
        symbol.value, symbol.known = value, known
        return symbol

    def is_constant(self) -> bool:
        return self.known

    def get_constant_value(self) -> int:
        return self.value if self.known else -(2**31)


class Builder(trt.IExprBuilder):
    def constant(self, value: int) -> Symbol:
        return Symbol.of(value, known=True)

    def operation(self, operation: Any, first: Symbol, second: Symbol) -> Symbol:
        a, b = first.value, second.value
        value = {
            "SUM": lambda: a + b,
            "SUB": lambda: a - b,
            "PROD": lambda: a * b,
            "FLOOR_DIV": lambda: a // b,
            "CEIL_DIV": lambda: math.ceil(a / b),
            "MAX": lambda: max(a, b),
            "MIN": lambda: min(a, b),
        }[operation.name]()
        return Symbol.of(value, known=first.known and second.known)


class Dims(list[Any]):
    """``trt.DimsExprs``, which takes no stand-ins."""

    def __init__(self, rank: int) -> None:
        super().__init__([None] * rank)


class Expression(_tensor.SymExprImpl):
    """What NVIDIA's code hands to C++, with the value left readable."""

    def __init__(self, expression: Any) -> None:
        super().__init__(expression)
        self.kept = expression._expr.value


trt.DimsExprs = Dims
_tensor.SymExprImpl = Expression


class Setter(dict[int, Any]):
    nbSymExprs: int  # noqa: N815 - NVIDIA's name


def create(plugin: str, attributes: dict[str, Any]) -> Any:
    """Return a plugin made by NVIDIA's creator from a node's attributes, typed as the ONNX parser types them."""
    kinds = {
        int: (np.int32, trt.PluginFieldType.INT32),
        float: (np.float32, trt.PluginFieldType.FLOAT32),
        list: (np.float32, trt.PluginFieldType.FLOAT32),
    }
    arrays = {name: np.atleast_1d(np.array(value, kinds[type(value)][0])) for name, value in attributes.items()}
    fields = [trt.PluginField(name, arrays[name], kinds[type(value)][1]) for name, value in attributes.items()]
    creator = _lib.QDP_CREATORS[f"frcnn::{plugin}"]
    request = trt.QuickPluginCreationRequest.STRICT_AOT
    return creator.create_plugin(plugin, "frcnn", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD, request)


def _described(shape: list[int], dtype: str, layout: str, open_letters: list[int], maximum: list[int]) -> Any:
    desc = trt.DynamicPluginTensorDesc()
    inner = trt.PluginTensorDesc()
    inner.dims = [-1 if index in open_letters else size for index, size in enumerate(shape)]
    inner.type, inner.format, inner.scale = getattr(trt.DataType, dtype), getattr(trt.TensorFormat, layout), 1.0
    desc.desc, desc.min, desc.opt, desc.max = inner, shape, shape, maximum
    return desc


def drive(
    plugin: str, attributes: dict[str, Any], inputs: list[dict[str, Any]], layouts: list[str] | None = None
) -> dict[str, Any]:
    """Go through a build of a plugin; inputs and outputs are planar unless ``layouts`` are given.

    Each input has ``shape`` and ``dtype``, ``open``: indices of sizes unknown at build time, ``max``: its largest.
    """
    made = create(plugin, attributes)
    types = [getattr(trt.DataType, value["dtype"]) for value in inputs]
    output_types = made.get_output_data_types(types, [len(value["shape"]) for value in inputs])
    symbols = [
        [Symbol.of(size, known=index not in value.get("open", [])) for index, size in enumerate(value["shape"])]
        for value in inputs
    ]
    shapes = made.get_output_shapes(symbols, [], Builder())
    output_shapes = [[symbol.value for symbol in shape] for shape in shapes]

    def in_out(names: list[str]) -> list[Any]:
        described = [
            _described(value["shape"], value["dtype"], name, value.get("open", []), value.get("max", value["shape"]))
            for value, name in zip(inputs, names, strict=False)
        ]
        return described + [
            _described(shape, kind.name, name, [], shape)
            for shape, kind, name in zip(output_shapes, output_types, names[len(inputs) :], strict=True)
        ]

    layouts = layouts or ["LINEAR"] * (len(inputs) + len(output_types))
    combinations = made.get_supported_format_combinations(in_out(["LINEAR"] * len(layouts)), len(inputs))
    width = len(layouts)
    offered = [
        [[desc.type.name, desc.format.name] for desc in combinations[i : i + width]]
        for i in range(0, len(combinations), width)
    ]
    chosen = in_out(layouts)
    static = [desc.desc for desc in chosen]
    made.configure_plugin(chosen[: len(inputs)], chosen[len(inputs) :])
    tactics = made.get_valid_tactics()
    made.set_tactic(0)
    launch, setter = SimpleNamespace(), Setter()
    made.get_launch_params(symbols, chosen, len(inputs), launch, setter, Builder())
    name, code = made.get_kernel(static[: len(inputs)], static[len(inputs) :])
    return {
        "outputs": made.get_num_outputs(),
        "types": [kind.name for kind in output_types],
        "shapes": output_shapes,
        "offered": offered,
        "tactics": tactics,
        "entry": name,
        "code": code,
        "grid": [getattr(launch, f"grid_{axis}").kept for axis in "xyz"],
        "block": [getattr(launch, f"block_{axis}").kept for axis in "xyz"],
        "shared_memory": launch.shared_mem.kept,
        "integers": [setter[index].kept for index in range(setter.nbSymExprs)],
    }
