"""Int8 models of one float model, by which groups of its layers stay in float32."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import onnx
from numpy.typing import NDArray

from frcnn.exporter.graph.finalize import finalize_graph
from frcnn.exporter.graph.quantize import HEAVY_OPERATORS, Recipe, calibrate, layer_groups, quantize
from frcnn.exporter.graph.source_model import SourceModel
from frcnn.spec import Manifest, Quantization

__all__ = ["QuantizedModels"]

_QUANTIZER = "onnxruntime"


class QuantizedModels:
    """Quantises a model again and again, with ranges that are found once.

    Args:
        source: the float32 model.
        inputs: of the network, one image each; read once.
        images: how many those are.
        symmetric: whether the zero point of activations is 0.
        threads: of the processor, for the calibration.

    Attributes:
        groups: names of the layers that may be int8 by group, in the order of execution.
        prediction_layers: names of the others, which are float32 always.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
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
        recipe = self._recipe(float_groups)
        model = quantize(self._source.model, self._ranges, recipe)
        manifest = self._manifest(recipe)
        onnx.save_model(finalize_graph(model, manifest), path)
        return manifest

    def _recipe(self, float_groups: Collection[str]) -> Recipe:
        layers = (layer for group in float_groups for layer in self.groups[group])
        return Recipe(symmetric=self._symmetric, float_layers=frozenset(layers))

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
