"""A network of TensorRT-RTX, parsed without any of ours."""

from __future__ import annotations

from typing import Any

import onnx
import tensorrt_rtx


def parse_by_rtx(model: onnx.ModelProto) -> tuple[Any, Any]:
    """Return TensorRT-RTX's strongly typed network of a model, None if it refuses it, and its builder."""
    builder = tensorrt_rtx.Builder(tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt_rtx.OnnxParser(network, builder.logger)
    return network if parser.parse(model.SerializeToString()) else None, (builder, parser)
