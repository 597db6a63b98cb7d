"""The float32 model to quantise, the work of its layers, and int8 models of it by what stays in float32."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
from numpy.typing import NDArray

from frcnn.errors import ArtifactError
from frcnn.exporter.engine.shape_inference import Shape, output_shapes
from frcnn.exporter.graph.finalize import finalize_graph
from frcnn.exporter.graph.quantize import HEAVY_OPERATORS, Recipe, calibrate, layer_groups, quantize
from frcnn.exporter.graph.source_model import SourceModel, read_source_model
from frcnn.exporter.graph.split import split
from frcnn.files.archive import is_archive
from frcnn.plugins import DOMAIN
from frcnn.spec import Manifest, Quantization, Size
from frcnn.spec.engine import INPUTS

_MAKE_ONE: Final = "make one with: frcnn export CHECKPOINT -o model.onnx"
_QUANTIZER: Final = "onnxruntime"


def read_float_model(path: Path) -> SourceModel:
    """Read a float32 ``model.onnx`` with its operators; refuse all else, each by its name."""
    if is_archive(path):
        raise ArtifactError(
            f"{path}: expected a float32 model.onnx, got an engine artifact",
            hint="quantize the model.onnx that it was built from, then build again: frcnn build model-int8.onnx",
        )
    source = read_source_model(path)
    precision = source.manifest.precision
    if precision == "int8":
        raise ArtifactError(f"{path}: expected a float32 model.onnx, got an int8 one", hint=_MAKE_ONE)
    if precision != "fp32":
        raise ArtifactError(
            f"{path}: expected a float32 model.onnx, got {precision}", hint=f"{_MAKE_ONE} --precision fp32"
        )
    if not any(node.domain == DOMAIN for node in source.model.graph.node):
        raise ArtifactError(
            f"{path}: expected the operators of the domain {DOMAIN!r}, got an inlined model",
            hint="export without --inline; frcnn quantize --inline writes the int8 model inlined",
        )
    split(source.model)
    return source


class QuantizedModels:
    """Quantises a float32 model again and again, with ranges that are found once.

    ``inputs`` are those of so many ``images``, one each, and are read once; ``symmetric`` puts the zero point of
    activations at 0. ``groups`` are the layers that may be int8, by group, in the order of execution;
    ``prediction_layers`` the others, which are float32 always.
    """

    def __init__(
        self,
        source: SourceModel,
        inputs: Iterable[Mapping[str, NDArray[Any]]],
        *,
        images: int,
        symmetric: bool,
        threads: int,
    ) -> None:
        self._source, self._images, self._symmetric = source, images, symmetric
        self.groups = layer_groups(source.model)
        grouped = {layer for layers in self.groups.values() for layer in layers}
        heavy = (node.name for node in source.model.graph.node if node.op_type in HEAVY_OPERATORS)
        self.prediction_layers = tuple(layer for layer in heavy if layer not in grouped)
        self._ranges = calibrate(source.model, inputs, threads=threads)

    def write(self, path: Path, float_groups: Collection[str]) -> Manifest:
        """Write the model with some groups in float32, and return its manifest."""
        layers = frozenset(layer for group in float_groups for layer in self.groups[group])
        recipe = Recipe(symmetric=self._symmetric, float_layers=layers)
        model = quantize(self._source.model, self._ranges, recipe)
        manifest = self._manifest(recipe)
        onnx.save_model(finalize_graph(model, manifest), path)
        return manifest

    def _manifest(self, recipe: Recipe) -> Manifest:
        version = metadata.version(_QUANTIZER)
        put_back = (layer for layers in self.groups.values() for layer in layers if layer in recipe.float_layers)
        return msgspec.structs.replace(
            self._source.manifest,
            precision="int8",
            versions=self._source.manifest.versions | {_QUANTIZER: version},
            quantization=Quantization(
                quantizer=f"{_QUANTIZER} {version}",
                symmetric=recipe.symmetric,
                images=self._images,
                float_layers=(*put_back, *self.prediction_layers),
            ),
        )


def layer_macs(model: onnx.ModelProto, canvas: Size) -> dict[str, int]:
    """Return the MACs of every convolution and matrix product with weights, for one image, by the name of its node."""
    parts = split(model)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    (pooled,) = parts.pooling.output
    proposals = shapes[parts.proposals.output[0]][1].dim_value
    box_input = (proposals, *(size.dim_value for size in shapes[pooled][1:]))
    return _macs(parts.features, {INPUTS[0]: (1, 3, *canvas)}) | _macs(parts.boxes, {pooled: box_input})


def _macs(network: onnx.ModelProto, inputs: Mapping[str, Shape]) -> dict[str, int]:
    weights = {constant.name: tuple(constant.dims) for constant in network.graph.initializer}
    layers = [node for node in network.graph.node if node.op_type in HEAVY_OPERATORS and node.input[1] in weights]
    del network.graph.output[:]  # the part is a copy; its outputs are those whose shapes are asked for
    network.graph.output.extend(
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None) for node in layers
    )
    shapes = output_shapes(network, inputs)
    return {
        node.name: math.prod(shapes[node.output[0]]) * _macs_of_an_element(node, weights[node.input[1]])
        for node in layers
    }


def _macs_of_an_element(node: onnx.NodeProto, weight: Shape) -> int:
    if node.op_type == "Conv":  # (out channels, in channels of a group, kernel height, kernel width)
        return math.prod(weight[1:])
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight[-1] if is_transposed else weight[-2]
