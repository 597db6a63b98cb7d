"""Join the two networks of a detector by the operators between and after them."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import onnx
from onnx import TensorProto

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import is_standard, unique_name
from frcnn.exporter.model.stages import Stage, Stages
from frcnn.plugins import DOMAIN, VERSION, box_detections, multiscale_roi_align, multiscale_roi_pool, region_proposals
from frcnn.spec.engine import INPUTS, OUTPUTS

_SCOPES: Final = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter records the modules of a node


def join_networks(features: onnx.ModelProto, boxes: onnx.ModelProto, stages: Stages) -> onnx.ModelProto:
    """Return the whole detector, from ``images`` and ``image_sizes`` to detections; both networks are used up.

    Nodes are named after their modules. The values at the joints keep the names of the networks' inputs and outputs.
    Raises ExportError for networks with operators that are not ONNX's own.
    """
    _name_nodes(features, boxes)
    _make_initializers_unique(features, boxes)
    maps, predictions = ([value.name for value in part.graph.output] for part in (features, boxes))
    (pooled,) = (value.name for value in boxes.graph.input)
    anchors = _anchors_per_cell(stages.proposals)
    levels = len(anchors)
    images, sizes = INPUTS
    proposals = _node(stages.proposals, "rpn", [sizes, images, *maps[: 2 * levels]], ["rois"])
    pooling = _node(stages.pooling, "roi_heads", ["rois", *maps[2 * levels :]], [pooled])
    detections = _node(stages.detections, "roi_heads", ["rois", sizes, *predictions], OUTPUTS)

    model = features
    graph, other = model.graph, boxes.graph
    graph.name = "faster_rcnn"
    graph.node.extend((proposals, pooling, *other.node, detections))
    graph.initializer.extend(other.initializer)
    graph.value_info.extend((*graph.output, *other.value_info, *other.input, *other.output))
    graph.ClearField("output")
    _state_types(graph, stages)
    _add_functions(model, stages, anchors, len(maps) - 2 * levels)
    return model


def _name_nodes(*networks: onnx.ModelProto) -> None:
    """Name every node and its outputs after the module it comes from: ``backbone/body/layer1/0/conv1/Conv``.

    Users know the model by its modules, and ONNX Runtime and TensorRT name a fused layer after its output.
    """
    counts: Counter[str] = Counter()
    for network in networks:
        _refuse_other_operators(network)
        renamed: dict[str, str] = {}
        fixed = {value.name for value in (*network.graph.input, *network.graph.output)}
        for node in network.graph.node:
            metadata = {entry.key: entry.value for entry in node.metadata_props}
            scopes = ast.literal_eval(metadata.get(_SCOPES, "[]"))[:-1]
            scopes = [scope for scope in scopes if not scope.startswith("_")]
            path = scopes[-1].replace(".", "/") if scopes and scopes[-1] else "graph"
            name = f"{path}/{node.op_type}"
            counts[name] += 1
            node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
            renamed |= {old: f"{node.name}:{i}" for i, old in enumerate(node.output) if old not in fixed}
        _rename(network.graph, renamed)


def _refuse_other_operators(network: onnx.ModelProto) -> None:
    others = {f"{node.domain}::{node.op_type}" for node in network.graph.node if not is_standard(node.domain)}
    others |= {f"{function.domain}::{function.name}" for function in network.functions}
    if others:
        raise ExportError(
            f"the exported graph holds operators that are not ONNX's own: {', '.join(sorted(others))}",
            hint="write the custom backbone or head in PyTorch's operators",
        )


def _make_initializers_unique(features: onnx.ModelProto, boxes: onnx.ModelProto) -> None:
    """Rename constants that both networks have: weights are named after their modules, others are numbered."""
    taken = {tensor.name for tensor in features.graph.initializer}
    renamed = {tensor.name: unique_name(tensor.name, taken) for tensor in boxes.graph.initializer}
    for tensor in boxes.graph.initializer:
        tensor.name = renamed[tensor.name]
    _rename(boxes.graph, renamed)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)


def _anchors_per_cell(proposals: Stage) -> tuple[int, ...]:
    rows: Any = proposals.attributes["anchors"]
    counts = Counter(int(level) for level in rows[::5])
    return tuple(counts[level] for level in sorted(counts))


def _node(stage: Stage, path: str, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    name, attributes = stage.spec.name, dict[str, Any](stage.attributes)
    return onnx.helper.make_node(name, inputs, outputs, name=f"{path}/{name}", domain=DOMAIN, **attributes)


def _state_types(graph: onnx.GraphProto, stages: Stages) -> None:
    """Add the types of the second input, of the proposals and of the outputs."""
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    proposals: Any = stages.proposals.attributes
    most = min(proposals["post_nms_top_n"], len(_anchors_per_cell(stages.proposals)) * proposals["pre_nms_top_n"])
    maximum: Any = stages.detections.attributes["max_detections"]
    value = onnx.helper.make_tensor_value_info
    graph.input.append(value(INPUTS[1], TensorProto.INT32, [batch, 2]))
    graph.value_info.append(value("rois", TensorProto.FLOAT, [batch, most, 4]))
    elements = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    shapes: tuple[list[Any], ...] = ([batch], [batch, maximum, 4], [batch, maximum], [batch, maximum])
    graph.output.extend(map(value, OUTPUTS, elements, shapes))


def _add_functions(model: onnx.ModelProto, stages: Stages, anchors: Sequence[int], maps: int) -> None:
    pooling: Any = stages.pooling.attributes
    grid = (pooling["output_height"], pooling["output_width"])
    if stages.pooling.spec is multiscale_roi_align.SPEC:
        pooling_body = multiscale_roi_align.function(levels=maps, aligned=bool(pooling["aligned"]))
    else:
        pooling_body = multiscale_roi_pool.function(levels=maps, output_size=grid)
    strides: Any = stages.proposals.attributes["strides"]
    proposals_body = region_proposals.function(levels=len(anchors), anchors_per_cell=anchors, strides=strides)
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    for body in (proposals_body, pooling_body, box_detections.function()):
        for entry in body.opset_import:
            if entry.domain == "":  # a model has one opset; the body's operators only take more types from 20 to 22
                entry.version = opset
        model.functions.append(body)
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
