"""Write the model repository of a model file, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from frcnn.errors import OutputError, UsageError, one_line
from frcnn.files import writable_folder
from frcnn.runtime.backend import Device
from frcnn.runtime.model_files.artifact import Artifact, OnnxArtifact, open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.runtime.triton.config import Fields, Word, config_text, front_tensors, network_tensors, parameters
from frcnn.runtime.triton.front import MANIFEST_FILE
from frcnn.spec.engine import INPUTS, EngineStep

TritonBackend = Literal["onnxruntime", "tensorrt", "python"]
"""What runs the network in Triton; ``"python"`` is frcnn."""

_BATCH: Final = 8
_FRONTS: Final = 2  # processes that decode and resize
_HEURISTIC: Final = {"cudnn_conv_algo_search": "1"}  # as CUDA_OPTIONS of frcnn.runtime.onnxruntime_sessions
_MODEL_PY: Final = '''"""Triton's Python backend reads this; its Python needs frcnn."""

from frcnn.runtime.triton.front import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    model: str | os.PathLike[str],
    repository: Path,
    *,
    name: str | None = None,
    backend: TritonBackend | None = None,
    device: Device | None = None,
    batch: int | None = None,
) -> None:
    """Write a model repository.

    Args:
        model: a ``model.onnx`` or a ``*.frcnn``.
        repository: a new or empty folder.
        name: of the model in Triton. Default: the file's without its suffix.
        backend: by default that of the file, or ``"python"`` where Triton has none for it.
        device: by default the CPU for a ``model.onnx``, the GPU for an artifact.
        batch: the most images at a time. Default: 8, of an artifact what it is built for.
    """
    artifact = open_artifact(model)
    name = _checked_name(Path(model).stem if name is None else name)
    backend, device, batch = _backend(artifact, backend), _device(artifact, device), _checked_batch(artifact, batch)
    spec = artifact.manifest.model
    rows = spec.roi_heads.detections_per_img
    common: Fields = {"max_batch_size": batch, "dynamic_batching": {}}
    group: Fields = {"count": 1, "kind": Word("KIND_CPU" if device == "cpu" else "KIND_GPU")}
    values = {"labels": json.dumps(spec.labels or [], ensure_ascii=False)}
    with _new_folder(repository) as root:
        front = root / name / "1"
        front.mkdir(parents=True)
        if backend == "python":
            file = f"model{'.onnx' if isinstance(artifact, OnnxArtifact) else '.frcnn'}"
            shutil.copyfile(artifact.path, front / file)
            values |= {"model": file, "device": device}
            group |= {} if device == "cpu" else {"gpus": [0]}  # the Detector's
        else:
            network = f"{name}_network"
            (root / network / "1").mkdir(parents=True)
            fields, image_type = _write_network(artifact, root / network / "1", rows)
            group |= fields.pop("instance_group", {})
            if backend == "onnxruntime" and device == "cuda":
                fields |= parameters(_HEURISTIC)
            fields = {"name": network, "backend": backend, **common, "instance_group": [group], **fields}
            (root / network / "config.pbtxt").write_text(config_text(fields), encoding="utf-8")
            manifest = artifact.manifest.to_json()
            (front / MANIFEST_FILE).write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
            values |= {"network": network, "image_type": image_type}
            group = {"count": _FRONTS, "kind": Word("KIND_CPU")}
        fields = {"name": name, "backend": "python", **common, "instance_group": [group]}
        fields |= front_tensors(rows) | parameters(values)
        (root / name / "config.pbtxt").write_text(config_text(fields), encoding="utf-8")
        (front / "model.py").write_text(_MODEL_PY, encoding="utf-8")


def _write_network(artifact: Artifact, folder: Path, rows: int) -> tuple[Fields, str]:
    """Write the file that Triton's own backend runs; return its part of the configuration and the type of images."""
    if isinstance(artifact, OnnxArtifact):
        shutil.copyfile(artifact.path, folder / "model.onnx")
        image_type = "float16" if artifact.manifest.precision == "fp16" else "float32"
        canvases, group = artifact.manifest.canvases, {}
    else:
        manifest = artifact.manifest
        (step,) = (step for step in manifest.steps if isinstance(step, EngineStep))
        with (folder / "model.plan").open("wb") as file:
            for chunk in artifact.archive.stream(step.part, manifest.parts[step.part]):
                file.write(chunk)
        image_type, canvases = manifest.tensors[INPUTS[0]].element, manifest.source.canvases
        group = {"profile": [str(index) for index in range(len(manifest.profiles))]}
    only = canvases[0] if canvases is not None and len(canvases) == 1 else None
    return network_tensors(image_type, only, rows) | {"instance_group": group}, image_type


def _checked_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is None:
        raise UsageError(f"name: expected letters, digits, '_', '-' and '.', got {name!r}", hint="give one with --name")
    return name


def _backend(artifact: Artifact, wanted: TritonBackend | None) -> TritonBackend:
    own: TritonBackend = "python"
    if isinstance(artifact, OnnxArtifact):
        what = f"a model.onnx in {artifact.manifest.precision}"
        if artifact.manifest.precision != "bf16":  # Triton's backend has no bf16 input
            own = "onnxruntime"
    else:
        what = f"an artifact for {artifact.manifest.target}, {artifact.manifest.form}"
        if (artifact.manifest.target, artifact.manifest.form) == ("tensorrt", "plan"):
            own = "tensorrt"
    if wanted not in (None, own, "python"):
        hint = f"leave --backend out, or give {' or '.join(dict.fromkeys((own, 'python')))}"
        raise UsageError(f"backend: {wanted} does not run {artifact.path}, {what}", hint=hint)
    return wanted or own


def _device(artifact: Artifact, wanted: Device | None) -> Device:
    if isinstance(artifact, EngineArtifact) and wanted == "cpu":
        raise UsageError(f"device: {artifact.path} holds engines for a GPU, got cpu", hint="leave --device out")
    return wanted or ("cpu" if isinstance(artifact, OnnxArtifact) else "cuda")


def _checked_batch(artifact: Artifact, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise UsageError(f"batch: expected 1 or more, got {wanted}")
    if isinstance(artifact, OnnxArtifact):
        return wanted or _BATCH
    ranges = [profile.batch for profile in artifact.manifest.profiles]
    least, most = max(batch.min for batch in ranges), max(batch.max for batch in ranges)
    if least > 1 or (wanted or 1) > most:
        raise UsageError(
            f"batch: expected an artifact for 1 to {wanted or most} images, got one for {least} to {most}",
            hint=f"build it again with --batch 1:1:{wanted or most}",
        )
    return wanted or most


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes ``path`` when the block succeeds and is removed when it fails."""
    hint = "choose a new folder with -o"
    parent = writable_folder(path.absolute().parent)
    try:
        if os.path.lexists(path) and (there := next(path.iterdir(), None)):
            raise OutputError(f"cannot write the repository {path}: it is not empty, there is {there.name}", hint=hint)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=parent) as temporary:
            root = Path(temporary, "repository")
            root.mkdir()
            yield root
            if path.exists():
                path.rmdir()
            root.rename(path)
    except OSError as error:
        raise OutputError(f"cannot write the repository {path}: {one_line(error)}", hint=hint) from error
