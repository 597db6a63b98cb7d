"""Facts of an artifact, whichever kind it is: a ``model.onnx`` or a ``*.frcnn``."""

from __future__ import annotations

from pathlib import Path

from frcnn.benchmarks.report.results import EngineInfo
from frcnn.runtime.backend import Device
from frcnn.runtime.images.canvases import Canvases, EngineCanvases, OnnxCanvases
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.spec import Manifest, ModelSpec, Size
from frcnn.spec.engine import EngineManifest

AnyManifest = Manifest | EngineManifest


def model_manifest(manifest: AnyManifest) -> Manifest:
    """Return the manifest of the ``model.onnx``: itself, or the one that an engine was built from."""
    return manifest.source if isinstance(manifest, EngineManifest) else manifest


def onnx_manifest(path: Path) -> Manifest:
    """Return the manifest of a ``model.onnx``."""
    artifact = open_artifact(path)
    assert isinstance(artifact, OnnxArtifact)
    return artifact.manifest


def model_difference(spec: ModelSpec, manifest: AnyManifest) -> str:
    """Return the first thing in which an artifact is of another model than the description; empty where none is."""
    theirs = manifest.model
    for what, expected, got in (
        ("number of classes", spec.num_classes, theirs.num_classes),
        ("preprocessing", spec.transform, theirs.transform),
        ("RPN", spec.rpn, theirs.rpn),
        ("box head", spec.roi_heads, theirs.roi_heads),
    ):
        if expected != got:
            return f"{what}: expected {expected}, got {got}"
    return ""


def engine_info(manifest: AnyManifest) -> EngineInfo | None:
    """Return what a manifest says of its engines, or None for a ``model.onnx``."""
    if not isinstance(manifest, EngineManifest):
        return None
    return EngineInfo(
        target=manifest.target, version=manifest.target_version, form=manifest.form, precision=manifest.precision
    )


def canvases_of(manifest: AnyManifest) -> Canvases:
    """Return the canvases that images go on; an engine's profiles may raise a small one."""
    return EngineCanvases(manifest) if isinstance(manifest, EngineManifest) else OnnxCanvases(manifest)


def first_canvas(manifest: AnyManifest) -> Size | None:
    """Return the (height, width) that the file names first, an engine's optimal one; None where it takes any."""
    if isinstance(manifest, EngineManifest):
        profile = manifest.profiles[0]
        return profile.height.opt, profile.width.opt
    return None if manifest.canvases is None else manifest.canvases[0]


def device_for(manifest: AnyManifest) -> Device:
    """Return the device that the artifact is for: engines and bf16 run on a GPU only, all else runs on any CPU."""
    return "cuda" if isinstance(manifest, EngineManifest) or manifest.precision == "bf16" else "cpu"
