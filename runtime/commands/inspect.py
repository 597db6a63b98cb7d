"""Show what is in a model file: what frcnn knows of it, its inputs and outputs, its operators.

The weights are not loaded.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from frcnn.console import say, show_table

if TYPE_CHECKING:
    from frcnn.runtime.artifact import OnnxArtifact
    from frcnn.runtime.network import Network
    from frcnn.spec import Size

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn inspect``."""
    parser.add_argument("model", help="model.onnx, made by frcnn export")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn inspect``."""
    from frcnn.runtime.artifact import open_artifact
    from frcnn.runtime.network import read_network

    artifact = open_artifact(arguments.model)
    network = read_network(artifact)
    if arguments.json:
        say(json.dumps(_as_json(artifact, network), indent=2))
    else:
        _show(artifact, network)
    return 0


def _as_json(artifact: OnnxArtifact, network: Network) -> dict[str, Any]:
    return {
        "file": str(artifact.path),
        "file_bytes": artifact.outline.file_bytes,
        "weight_bytes": artifact.outline.weight_bytes,
        "producer": artifact.outline.producer,
        "manifest": json.loads(artifact.manifest.to_json()),
        "opsets": network.opsets,
        "inputs": [value.as_dict() for value in network.inputs],
        "outputs": [value.as_dict() for value in network.outputs],
        "operators": network.operators,
        "functions": network.functions,
    }


def _show(artifact: OnnxArtifact, network: Network) -> None:
    show_table(f"model {artifact.path}", ("what", "value"), _facts(artifact), text_columns=2)
    values = [("input", value) for value in network.inputs] + [("output", value) for value in network.outputs]
    rows = [(kind, value.name, value.dtype, " x ".join(value.shape)) for kind, value in values]
    show_table("inputs and outputs", ("", "name", "type", "shape"), rows, text_columns=4)
    counted = [(name, str(count)) for name, count in network.operators.items()]
    show_table("operators", ("operator", "count"), counted)
    bodies = [(name, ", ".join(f"{n} {op}" for op, n in ops.items())) for name, ops in network.functions.items()]
    if bodies:
        show_table("functions in the file", ("operator", "made of"), bodies, text_columns=2)
    for assumption in artifact.manifest.assumptions:
        say(f"assumed: {assumption}")


def _facts(artifact: OnnxArtifact) -> list[tuple[str, str]]:
    manifest, outline = artifact.manifest, artifact.outline
    model = manifest.model
    transform, rpn, heads = model.transform, model.rpn, model.roi_heads
    sizes = (
        f"resized to {_by(transform.fixed_size)}"
        if transform.fixed_size is not None
        else f"short side {transform.min_size}, long side at most {transform.max_size}"
    )
    canvases = (
        f"any multiple of {transform.size_divisible}"
        if manifest.canvases is None
        else ", ".join(_by(canvas) for canvas in manifest.canvases)
    )
    names = ", ".join(model.labels[1:]) if model.labels is not None else "without names"
    return [
        ("architecture", model.architecture),
        ("classes", f"{model.num_classes - 1}: {names}"),
        ("precision", manifest.precision),
        ("opset", str(manifest.opset)),
        ("pictures", f"{sizes} (pixels)"),
        ("canvases", f"{canvases} (height x width)"),
        ("normalisation", f"mean {_numbers(transform.image_mean)}, std {_numbers(transform.image_std)}"),
        (
            "proposals",
            f"{rpn.num_levels} level(s), {rpn.pre_nms_top_n} candidates a level, {rpn.post_nms_top_n} kept, "
            f"IoU {rpn.nms_thresh:g}, score {rpn.score_thresh:g}",
        ),
        (
            "detections",
            f"at most {heads.detections_per_img}, IoU {heads.nms_thresh:g}, score above {heads.score_thresh:g}",
        ),
        (
            "RoI pooling",
            f"{heads.pooler.kind} {_by(heads.pooler.output_size)}, {len(heads.pooler.feature_names)} map(s)",
        ),
        ("file", f"{outline.file_bytes:,} bytes, {outline.weight_bytes:,} of them weights"),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "unknown"),
        ("checkpoint SHA-256", manifest.source_sha256 or "unknown"),
    ]


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
