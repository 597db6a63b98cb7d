"""Device memory that an artifact needs, as far as it is known without a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import onnx

from frcnn.exporter.engine.shapes import Trace, padded_bytes
from frcnn.plugins.kernel import ELEMENT_BYTES
from frcnn.spec.engine import EngineTensor, MemoryNeeds

__all__ = ["initializer_bytes", "memory_needs"]

_ELEMENT_BYTES: Final[Mapping[str, int]] = {**ELEMENT_BYTES, "bool": 1}


def memory_needs(
    traces: Sequence[Trace], tensors: Mapping[str, EngineTensor], weights_bytes: Iterable[int]
) -> MemoryNeeds:
    """Return the memory for the largest shapes.

    Args:
        traces: the largest shapes of each profile.
        tensors: every tensor that a step reads or writes.
        weights_bytes: of each engine.
    """

    def tensors_bytes(found: Trace) -> int:
        return sum(padded_bytes(found.shapes[name], _ELEMENT_BYTES[tensor.element]) for name, tensor in tensors.items())

    return MemoryNeeds(
        weights_bytes=sum(weights_bytes),
        tensors_bytes=max(map(tensors_bytes, traces)),
        # operators run one after another, in the same scratch
        workspace_bytes=max(max(found.scratch_bytes.values(), default=0) for found in traces),
    )


def initializer_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a model's weights."""
    total = 0
    for tensor in model.graph.initializer:
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for side in tensor.dims:
            size *= side
        total += size
    return total
