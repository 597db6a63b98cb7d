"""Split a ``model.onnx`` into its two networks and the three operators that join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import is_standard, quantized_values, read_values
from frcnn.plugins import DOMAIN
from frcnn.plugins.operator_kernels import POOLING
from frcnn.spec.engine import INPUTS, OUTPUTS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Networks:
    """The parts of a detector in execution order: models of standard operators, and nodes of frcnn's."""

    features: onnx.ModelProto  # images to objectness_{i}, deltas_{i} and features_{i}
    proposals: onnx.NodeProto
    pooling: onnx.NodeProto
    boxes: onnx.ModelProto  # pooled to class_logits and box_deltas
    detections: onnx.NodeProto


def split(model: onnx.ModelProto) -> Networks:
    """Split a model, which is not changed; weights are copied.

    Of an int8 model the operators read the values between the networks as they are before they are rounded to int8,
    which the file has them read after it: kernels take floats, and what is not rounded is the more exact. Raises
    ExportError if the graph is not two networks joined by the operators, such as that of an older file.
    """
    graph = model.graph
    ours = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node if node.domain == DOMAIN]
    names = [node.op_type for node in ours]
    if not names and not model.functions:
        raise ExportError(
            "the graph has no operators of frcnn, expected RegionProposals, a RoI pooling operator and BoxDetections: "
            "they are inlined",
            hint="an engine is built from a model.onnx that was exported without --inline",
        )
    if names not in [["RegionProposals", pooling, "BoxDetections"] for pooling in POOLING]:
        raise _other(f"expected RegionProposals, a RoI pooling operator and BoxDetections, got {', '.join(names)}")
    unrounded = quantized_values(graph)
    for node in ours:
        node.input[:] = [unrounded.get(name, name) for name in node.input]
    proposals, pooling, detections = ours
    (rois,) = proposals.output
    joints = (*proposals.input[:2], pooling.input[0], *detections.input[:2], *detections.output)
    ends = tuple(value.name for value in (*graph.input, *graph.output))
    if joints != (*reversed(INPUTS), rois, rois, INPUTS[1], *OUTPUTS) or ends != (*INPUTS, *OUTPUTS):
        raise _other("its operators are joined in another way")

    maps = list(dict.fromkeys((*proposals.input[2:], *pooling.input[1:])))
    features = _network(model, "features", [INPUTS[0]], maps)
    boxes = _network(model, "boxes", list(pooling.output), list(detections.input[2:]))
    return Networks(features=features, proposals=proposals, pooling=pooling, boxes=boxes, detections=detections)


def _network(model: onnx.ModelProto, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the part of a model from inputs to outputs, as a model of its own."""
    graph = model.graph
    known = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    wanted = set(outputs)
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output) and not set(inputs).intersection(node.output):
            nodes.append(node)
            wanted.update(read_values(node))
    made = {value for node in nodes for value in node.output}
    lost = sorted(wanted - made - set(constants) - set(inputs)) + [value for value in outputs if value not in made]
    others = sorted({node.op_type for node in nodes if not is_standard(node.domain)})
    untyped = [value for value in (*inputs, *outputs) if value not in known]
    for what, found in (("lacks", lost), ("holds", others), ("has no types for", untyped)):
        if found:
            raise _other(f"its {name} network {what} {', '.join(found)}")

    part = onnx.ModelProto(ir_version=model.ir_version)
    part.producer_name, part.producer_version = model.producer_name, model.producer_version
    part.opset_import.extend(opset for opset in model.opset_import if is_standard(opset.domain))
    part.graph.name = name
    part.graph.input.extend(known[value] for value in inputs)
    part.graph.output.extend(known[value] for value in outputs)
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(tensor for name, tensor in constants.items() if name in wanted)
    part.graph.value_info.extend(value for value in graph.value_info if value.name in made - set(outputs))
    return part


def _other(reason: str) -> ExportError:
    return ExportError(
        f"the graph is not that of a detector: {reason}", hint="export the checkpoint again with this version of frcnn"
    )
