"""What OpenVINO computes in which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from frcnn.runtime.host.openvino_backend import OpenVinoBackend

openvino = pytest.importorskip("openvino")


def executed(backend: OpenVinoBackend) -> list[Any]:
    return list(backend._request.get_compiled_model().get_runtime_model().get_ordered_ops())


def told(node: Any, key: str) -> str:
    return str(node.get_rt_info()[key].astype(str)) if key in node.get_rt_info() else ""


def test_float32_is_float32_in_every_layer(tiny_model: Path) -> None:
    layers = executed(OpenVinoBackend(tiny_model, threads=1))
    assert "bf16" not in {told(node, "runtimePrecision") for node in layers}


def test_in_bf16_the_coordinates_of_rois_stay_in_float32(tiny_model: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    layers = executed(OpenVinoBackend(tiny_model, precision="bf16", threads=1))
    convolutions = [node for node in layers if told(node, "layerType") == "Convolution"]
    assert {told(node, "runtimePrecision") for node in convolutions} == {"bf16"}
    (align,) = [node for node in layers if told(node, "layerType") == "ROIAlign"]
    coordinates = align.input_value(1).get_node()
    assert told(coordinates, "runtimePrecision") == "f32"
    assert told(coordinates, "layerType") != "Reorder"
