"""Show what is in a model file: what frcnn knows of it, its inputs and outputs, its operators.

Of a model.onnx the weights are not loaded. Of a model.frcnn no engine is loaded; every part's SHA-256 is checked, and
the file's is printed, which Detector.load(trusted_hashes=...) takes.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from frcnn.console import say, show_table
from frcnn.errors import UsageError

if TYPE_CHECKING:
    from frcnn.runtime.model_files.artifact import Network, OnnxArtifact

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn inspect``."""
    parser.add_argument("model", help="model.onnx, made by frcnn export, or model.frcnn, made by frcnn build")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--layers", action="store_true", help="of a model.frcnn: list the precision of every layer")
    parser.add_argument("--hashes", action="store_true", help="of a model.frcnn: list the SHA-256 of every part")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn inspect``."""
    from frcnn.runtime.commands.inspect_engine import engine_as_json, show_engine
    from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact, read_network

    artifact = open_artifact(arguments.model)
    if isinstance(artifact, OnnxArtifact):
        for option in ("layers", "hashes"):
            if getattr(arguments, option):
                raise UsageError(
                    f"--{option}: {arguments.model} is an ONNX model, only a model.frcnn has that",
                    hint="build one: frcnn build model.onnx -o model.frcnn",
                )
        network = read_network(artifact)
        if arguments.json:
            say(json.dumps(_as_json(artifact, network), indent=2))
        else:
            _show(artifact, network)
    elif arguments.json:
        say(json.dumps(engine_as_json(artifact, layers=arguments.layers), indent=2))
    else:
        show_engine(artifact, layers=arguments.layers, hashes=arguments.hashes)
    return 0


def _as_json(artifact: OnnxArtifact, network: Network) -> dict[str, Any]:
    return {
        "kind": "onnx",
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
    from frcnn.runtime.commands.model_facts import by, model_facts

    manifest, outline = artifact.manifest, artifact.outline
    canvases = (
        f"any multiple of {manifest.model.transform.size_divisible}"
        if manifest.canvases is None
        else ", ".join(map(by, manifest.canvases))
    )
    return [
        *model_facts(manifest),
        ("precision", manifest.precision),
        ("canvases", f"{canvases} (height x width)"),
        ("opset", str(manifest.opset)),
        ("file", f"{outline.file_bytes:,} bytes, {outline.weight_bytes:,} of them weights"),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "unknown"),
        ("checkpoint SHA-256", manifest.source_sha256 or "unknown"),
    ]
