"""ONNX models that are ours by their manifest and whose content somebody chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from frcnn.spec import MANIFEST_KEY, Manifest
from support.engine_files import source_manifest

_ANSWERING: Final = """
<ir_version: 10, opset_import: ["" : 20], producer_name: "frcnn">
answering (float[N,3,H,W] images, int32[N,2] image_sizes)
  => (int32[A] num_detections, float[B,K,L] boxes, float[C,J] scores, int32[D,I] labels)
{
  num_detections = Identity(count)
  boxes = Identity(box)
  scores = Identity(score)
  labels = Identity(label)
}
"""


def answering(
    *,
    count: int = 1,
    boxes: Sequence[Sequence[float]] = ((1, 2, 30, 40), (0, 0, 0, 0)),
    scores: Sequence[float] = (0.9, 0),
    labels: Sequence[int] = (1, 0),
    manifest: Manifest | None = None,
) -> onnx.ModelProto:
    """Return a model with the same outputs for every batch of one image; its classes are cat, dog and teddy bear."""
    model = onnx.parser.parse_model(_ANSWERING)
    arrays: dict[str, NDArray[np.generic]] = {
        "count": np.array([count], np.int32),
        "box": np.array([boxes], np.float32),
        "score": np.array([scores], np.float32),
        "label": np.array([labels], np.int32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    manifest = source_manifest(precision="fp32") if manifest is None else manifest
    helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    return model


def secret_tensor(location: str | Path, size: int) -> TensorProto:
    """Return a tensor of bytes whose values are those of a file."""
    tensor = TensorProto(name="secret", data_type=TensorProto.UINT8, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(location))
    return tensor


def external_models(location: str | Path, size: int) -> dict[str, onnx.ModelProto]:
    """Return models that read a file, by the place where they hold the tensor that does."""
    secret = secret_tensor(location, size)
    guessed = secret_tensor(location, size)
    guessed.ClearField("data_location")
    constant = helper.make_node("Constant", [], ["unused"], value=secret)
    branch = helper.make_graph([constant], "branch", [], [helper.make_empty_tensor_value_info("unused")])
    choice = helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=branch)
    function = helper.make_function("x", "f", [], ["unused"], [constant], [helper.make_opsetid("", 20)])
    places: dict[str, Callable[[onnx.ModelProto], object]] = {
        "initializer": lambda model: model.graph.initializer.append(secret),
        "attribute": lambda model: model.graph.node.append(constant),
        "branch": lambda model: model.graph.node.append(choice),
        "function": lambda model: model.functions.append(function),
        "sparse initializer": lambda model: model.graph.sparse_initializer.add().values.CopyFrom(secret),
        "location left to be guessed": lambda model: model.graph.initializer.append(guessed),
    }
    models = {place: answering() for place in places}
    for place, model in models.items():
        places[place](model)
    return models
