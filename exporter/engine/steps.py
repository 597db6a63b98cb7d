"""The steps of an artifact between the two networks and three operators of a ``model.onnx``, and their tensors.

The feature maps that RoI pooling reads are channels-last where its kernel can take them, as tensor cores write them and
the kernel reads them fastest. So is what it writes, if the box head reads it so at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.engine.shape_inference import element_of
from frcnn.exporter.graph.channels_last import channels_last_head, channels_last_maps
from frcnn.exporter.graph.split import Networks
from frcnn.exporter.graph.tensorrt_lowering import lower_to_plugins
from frcnn.plugins import OPERATORS
from frcnn.plugins.operator_kernels import kernels_for
from frcnn.spec.engine import (
    INPUTS,
    OUTPUTS,
    EngineStep,
    EngineTensor,
    OperatorStep,
    Target,
    TensorElement,
    TensorLayout,
)

_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
_EXPORT_AGAIN: Final = "export the checkpoint again with this version of frcnn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of a detection in execution order, the tensors between them, and the model of each engine's part."""

    steps: tuple[EngineStep | OperatorStep, ...]
    tensors: dict[str, EngineTensor]
    models: dict[str, onnx.ModelProto]

    @property
    def operators(self) -> tuple[OperatorStep, ...]:
        """The steps that launch kernels."""
        return tuple(step for step in self.steps if isinstance(step, OperatorStep))


def make_steps(networks: Networks, target: Target) -> Steps:
    """Return the steps of a detection for a target.

    Raises ExportError if an operator reads another type than it takes, and KernelError if RoI pooling has no kernel.
    """
    features, boxes = networks.features, networks.boxes
    proposals, pooling, detections = map(_operator_step, (networks.proposals, networks.pooling, networks.detections))
    elements = _elements((features, boxes), (proposals, pooling, detections))
    channels = _channels(features, pooling.inputs[1:])
    (pooled,) = pooling.outputs
    layouts: dict[str, TensorLayout] = {}
    if _takes_channels_last(pooling, elements[pooled], channels.values()):
        layout: TensorLayout = "nhwc" if target == "onnxruntime" else "channels_last"
        layouts = dict.fromkeys(channels, layout)
        if layout == "nhwc":
            features = channels_last_maps(features, channels)
        if (head := channels_last_head(boxes)) is not None:
            boxes, layouts[pooled] = head, "nhwc"
        elif layout == "channels_last" and _begins_with_convolution(boxes, pooled):
            layouts[pooled] = layout

    suffix = "onnx" if target == "onnxruntime" else "plan"
    models = {f"engines/features.{suffix}": features, f"engines/boxes.{suffix}": boxes}
    before, after = (_engine_step(part, model) for part, model in models.items())
    return Steps(
        steps=(before, proposals, pooling, after, detections),
        tensors={
            name: EngineTensor(element=element, layout=layouts.get(name, "planar"), channels=channels.get(name))
            for name, element in elements.items()
        },
        models=models,
    )


def one_engine(steps: Steps, model: onnx.ModelProto) -> Steps:
    """Return the same detection as one step: a TensorRT engine with the operators as plugins, which are registered."""
    part = "engines/model.plan"
    return Steps(
        steps=(EngineStep(part=part, inputs=INPUTS, outputs=OUTPUTS),),
        tensors={name: steps.tensors[name] for name in (*INPUTS, *OUTPUTS)},
        models={part: lower_to_plugins(model)},
    )


def _engine_step(part: str, model: onnx.ModelProto) -> EngineStep:
    inputs, outputs = (tuple(value.name for value in values) for values in (model.graph.input, model.graph.output))
    return EngineStep(part=part, inputs=inputs, outputs=outputs)


def _operator_step(node: onnx.NodeProto) -> OperatorStep:
    attributes: dict[str, int | float | tuple[float, ...]] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value if isinstance(value, int | float) else tuple(map(float, value))
    return OperatorStep(
        node=node.name,
        operator=node.op_type,
        attributes=attributes,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
    )


def _elements(models: Iterable[onnx.ModelProto], operators: Iterable[OperatorStep]) -> dict[str, TensorElement]:
    """Return the types of all tensors between steps; operators must read what they take."""
    elements: dict[str, TensorElement] = {}
    for model in models:
        elements |= {value.name: element_of(value) for value in (*model.graph.input, *model.graph.output)}
    elements["image_sizes"] = "int32"
    for step in operators:
        spec = OPERATORS[step.operator]
        levels = spec.levels_of(len(step.inputs))
        if levels == 0 or len(step.outputs) != len(spec.outputs):
            given = f"{len(step.inputs)} inputs and {len(step.outputs)} outputs"
            raise ExportError(f"{step.node}: {step.operator} has no form with {given}", hint=_EXPORT_AGAIN)
        taken = [tensor.element for tensor in spec.inputs for _ in range(levels if tensor.variadic else 1)]
        features = elements[step.inputs[-1]]  # its kernels have one type of features
        for name, kind in zip(step.inputs, taken, strict=True):
            if elements[name] != (features if kind == "features" else kind):
                raise ExportError(
                    f"{step.node} takes {name} as {features if kind == 'features' else kind}, got {elements[name]}",
                    hint=_EXPORT_AGAIN,
                )
        made = (features if tensor.element == "features" else tensor.element for tensor in spec.outputs)
        elements |= zip(step.outputs, made, strict=True)
    return elements


def _channels(features: onnx.ModelProto, maps: Sequence[str]) -> dict[str, int | None]:
    """Return the channels of the maps that are pooled, None where the graph leaves them open."""
    dims = {value.name: value.type.tensor_type.shape.dim for value in features.graph.output}
    return {name: dims[name][1].dim_value or None if len(dims[name]) == 4 else None for name in maps}


def _takes_channels_last(pooling: OperatorStep, element: str, channels: Iterable[int | None]) -> bool:
    """Return whether there is a kernel for channels-last maps with these channels."""
    form = {"element": element, "layout": "channels_last"}
    (kernel,) = kernels_for(pooling.operator, {**pooling.attributes, **form})
    return all(count is not None and count % kernel.multiple_of["C"] == 0 for count in channels)


def _begins_with_convolution(model: onnx.ModelProto, name: str) -> bool:
    """Return whether only convolutions read an input of a model."""
    return all(node.op_type in _CONVOLUTIONS for node in model.graph.node if name in node.input)
