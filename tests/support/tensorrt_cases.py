"""Builds of plugins for ``tensorrt_driver``: kernels, attributes, shapes, and the sizes that are open."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from frcnn.plugins.expressions import names_in
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import POOLING, kernels_for
from support.operator_forms import Shape, attributes_of, shapes_of

CHANNELS_LAST: Final = {"float32": "HWC", "float16": "HWC8", "bfloat16": "HWC8"}

_DATA_TYPES: Final = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int32": "INT32"}


class Case:
    """A kernel and the arguments of a build of its plugin, with the open dimensions of each input."""

    def __init__(
        self, kernel: Kernel, attributes: Mapping[str, Any], shapes: Sequence[Shape], opened: Sequence[Sequence[int]]
    ) -> None:
        tensors = (*kernel.inputs, *kernel.outputs)
        self.kernel, self.shapes = kernel, shapes
        self.types = [_DATA_TYPES[tensor.element] for tensor in tensors]
        last = [kernel.layouts.get(tensor.name) == "channels_last" for tensor in tensors]
        inputs = [
            {"shape": shape, "dtype": kind, "open": dimensions}
            for shape, kind, dimensions in zip(shapes, self.types, opened, strict=False)
        ]
        self.has_open_channels = any(1 in value["open"] for value in inputs[1:])
        self.arguments: dict[str, Any] = {
            "plugin": kernel.plugin,
            "attributes": dict(attributes),
            "inputs": inputs,
            "layouts": [
                CHANNELS_LAST[tensor.element] if is_last else "LINEAR"
                for tensor, is_last in zip(tensors, last, strict=True)
            ],
        }


def cases(
    what: str,
    form: tuple[str, int],
    *,
    opened: str = "",
    sizes: Mapping[str, int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Case]:
    """Return a case for each kernel of an operator with a number of levels, by the name of its plugin.

    Args:
        what: in the name of the cases.
        form: the operator and its number of levels.
        opened: the letters that are open, as a regular expression.
        sizes: for :func:`shapes_of`.
        attributes: that differ from :func:`attributes_of`.
        **options: of the kernels.
    """
    given = attributes_of(*form) | dict(attributes or {})
    shapes = shapes_of(*form, **(sizes or {}))
    if form[0] in POOLING and not re.fullmatch(opened, "C"):
        options["channels"] = shapes["feature_0"][1]
    places: dict[str, list[int]] = {}  # the open dimensions of each tensor
    made = {}
    for kernel in kernels_for(form[0], {**given, **options}):
        letters: set[str] = set()
        for tensor in kernel.inputs:
            if tensor.name not in places:
                places[tensor.name] = _places(tensor.shape, opened)
            letters.update(*(names_in(tensor.shape[i]) for i in places[tensor.name]))
        read = [shapes[tensor.name] for tensor in kernel.inputs]
        launch = kernel.bind(kernel.sizes(read))
        shapes |= zip((tensor.name for tensor in kernel.outputs), launch.output_shapes, strict=True)
        for tensor in kernel.outputs:
            places[tensor.name] = _places(tensor.shape, "|".join(letters))
        made[f"{kernel.plugin}, {what}"] = Case(kernel, given, read, [places[tensor.name] for tensor in kernel.inputs])
    return made


def _places(shape: Sequence[str], opened: str) -> list[int]:
    return [i for i, text in enumerate(shape) if any(re.fullmatch(opened, name) for name in names_in(text))]
