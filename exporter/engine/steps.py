"""Split a ``model.onnx`` into the steps of an artifact, with a network definition for each engine.

For TensorRT-RTX, and for TensorRT without ahead-of-time plugins, the graph is cut at the custom operators. The feature
maps that RoI pooling reads are channels-last there, as tensor cores write them and the pooling kernel reads them
fastest. For newer TensorRT it is one network with the operators as plugins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final, cast

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Network, element_of, parse_network
from frcnn.exporter.graph.cut import CutNode, cut
from frcnn.exporter.graph.tensorrt_lowering import lower_to_plugins
from frcnn.plugins import DOMAIN, OPERATORS
from frcnn.plugins.kernel import Element, Kernel
from frcnn.plugins.operator_kernels import kernels_of
from frcnn.spec.engine import INPUTS, OUTPUTS, EngineStep, EngineTensor, OperatorStep

__all__ = ["Steps", "kernels_of_step", "one_engine", "steps_between_operators"]

_CHANNELS_LAST: Final[Mapping[str, str]] = {"float32": "HWC", "float16": "HWC8", "bfloat16": "HWC8"}
"""TensorRT's formats for (N, H, W, C); HWC8 is without gaps if C is a multiple of 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of a detection in execution order, the network of each engine by its part, and the tensors between."""

    steps: tuple[EngineStep | OperatorStep, ...]
    networks: dict[str, Network]
    tensors: dict[str, EngineTensor]

    @property
    def operators(self) -> tuple[OperatorStep, ...]:
        """The operators between engines."""
        return tuple(step for step in self.steps if isinstance(step, OperatorStep))


def steps_between_operators(trt: ModuleType, model: onnx.ModelProto) -> Steps:
    """Cut a model at the custom operators; raise ExportError if TensorRT cannot parse a piece."""
    steps: list[EngineStep | OperatorStep] = []
    networks: dict[str, Network] = {}
    tensors: dict[str, EngineTensor] = {}
    for item in cut(model, lambda node: node.domain == DOMAIN):
        if isinstance(item, CutNode):
            operator = _operator_step(item.node)
            features = tensors[operator.inputs[-1]].element
            (output,) = OPERATORS[operator.operator].outputs
            tensors[operator.output] = EngineTensor(element=features if output.element == "features" else "float32")
            steps.append(operator)
            continue
        part = f"engines/{len(networks)}.plan"
        networks[part] = network = parse_network(trt, item.model, name=part)
        steps.append(_engine_step(part, network))
        _add_tensors(network, tensors)
    made = Steps(steps=tuple(steps), networks=networks, tensors=tensors)
    for operator in made.operators:
        _make_channels_last(operator, made)
    return made


def one_engine(trt: ModuleType, model: onnx.ModelProto) -> Steps:
    """Make one network of a model, with its custom operators as plugins, which must be registered."""
    part = "engines/model.plan"
    network = parse_network(trt, lower_to_plugins(model), name=part)
    tensors: dict[str, EngineTensor] = {}
    _add_tensors(network, tensors)
    return Steps(steps=(_engine_step(part, network),), networks={part: network}, tensors=tensors)


def kernels_of_step(step: OperatorStep, tensors: Mapping[str, EngineTensor]) -> tuple[Kernel, ...]:
    """Return the kernels that an operator step launches, in order, for the types and layouts of its tensors."""
    features = tensors[step.inputs[-1]]
    return kernels_of(step.operator, step.attributes, element=cast(Element, features.element), layout=features.layout)


def _engine_step(part: str, network: Network) -> EngineStep:
    return EngineStep(part=part, inputs=tuple(network.inputs), outputs=tuple(network.outputs))


def _operator_step(node: onnx.NodeProto) -> OperatorStep:
    attributes: dict[str, int | float | tuple[float, ...]] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value if isinstance(value, int | float) else tuple(map(float, value))
    return OperatorStep(
        node=node.name, operator=node.op_type, attributes=attributes, inputs=tuple(node.input), output=node.output[0]
    )


def _add_tensors(network: Network, tensors: dict[str, EngineTensor]) -> None:
    """Add the types of a network's inputs and outputs; inputs must have the type of the step that makes them."""
    for name, tensor in (network.inputs | network.outputs).items():
        found = EngineTensor(element=element_of(tensor.dtype))
        if tensors.setdefault(name, found) != found:
            raise ExportError(
                f"{network.name}: expected {name} in {tensors[name].element}, as it is made, got {found.element}"
            )


def _make_channels_last(operator: OperatorStep, made: Steps) -> None:
    """Make the feature maps that an operator pools channels-last, all or none, if its kernel supports it."""
    (_rois, *maps) = operator.inputs
    spec = OPERATORS[operator.operator]
    element = cast(Element, made.tensors[operator.inputs[-1]].element)
    if not any(tensor.element == "features" for tensor in spec.inputs):
        return
    (kernel,) = kernels_of(operator.operator, operator.attributes, element=element, layout="channels_last")
    producers = {name: tensor for network in made.networks.values() for name, tensor in network.outputs.items()}
    channels = [int(producers[name].shape[1]) if name in producers else -1 for name in maps]
    is_fitting = all(count > 0 and count % kernel.multiple_of.get("C", 1) == 0 for count in channels)
    if not is_fitting or set(maps) & {*INPUTS, *OUTPUTS}:
        return
    for network in made.networks.values():
        layout = 1 << int(getattr(network.trt.TensorFormat, _CHANNELS_LAST[element]))
        for name, tensor in (network.inputs | network.outputs).items():
            if name in maps:
                tensor.allowed_formats = layout
    for name in maps:
        made.tensors[name] = EngineTensor(element=element, layout="channels_last")
