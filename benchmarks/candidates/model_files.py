"""The model files that rows run: given, or built into the report's folder and found there the next time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx

from frcnn._version import __version__
from frcnn.benchmarks.candidates.artifacts import AnyManifest, model_manifest
from frcnn.benchmarks.candidates.candidate import File, Task
from frcnn.benchmarks.candidates.unavailable import CannotRunError
from frcnn.errors import ArtifactError, FrcnnError
from frcnn.files import replacing
from frcnn.runtime.model_files.artifact import open_artifact

__all__ = ["built_engine", "built_onnx", "given_file", "naive_onnx", "require_model_of"]

_NAIVE_KEY: Final = "frcnn.bench"


def given_file(path: Path) -> Callable[[Task], File]:
    """Return what checks an artifact that the user gave."""

    def check(task: Task) -> File:
        manifest = open_artifact(path).manifest
        require_model_of(task, manifest, path)
        return File(path=path, precision=manifest.precision)

    return check


def require_model_of(task: Task, manifest: AnyManifest, path: Path) -> None:
    """Refuse an artifact of another model than the checkpoint's.

    Raises:
        ArtifactError: it is of another one.
    """
    theirs, spec = model_manifest(manifest).model, task.spec
    for what, expected, got in (
        ("number of classes", spec.num_classes, theirs.num_classes),
        ("preprocessing", spec.transform, theirs.transform),
        ("RPN", spec.rpn, theirs.rpn),
        ("box head", spec.roi_heads, theirs.roi_heads),
    ):
        if expected != got:
            raise ArtifactError(
                f"{path.name} is another model than the checkpoint: {what}: expected {expected}, got {got}"
            )
    source = model_manifest(manifest).source_sha256
    if source is not None and task.sha256 is not None and source != task.sha256:
        raise ArtifactError(
            f"{path.name} was made from another checkpoint: SHA-256 {source[:12]}..., expected {task.sha256[:12]}..."
        )


def built_onnx(task: Task) -> File:
    """Export ``model.onnx``, unless the folder has that of this checkpoint, these options and this frcnn already."""
    from frcnn.exporter.graph.export import export_onnx

    path = task.folder / "model.onnx"
    if _is_current(path, task):
        return File(path=path, precision="fp32")
    task.say("exporting model.onnx")
    started = time.perf_counter()
    export_onnx(
        task.model, path, labels=task.spec.labels, architecture=task.spec.architecture, source_sha256=task.sha256
    )
    return File(path=path, precision="fp32", build_s=time.perf_counter() - started)


def _is_current(path: Path, task: Task) -> bool:
    """Say whether a file that an earlier run left is what this run would build."""
    if task.sha256 is None or not path.exists():
        return False
    try:
        manifest = open_artifact(path).manifest
    except FrcnnError:
        return False
    same_maker = manifest.versions.get("frcnn") == __version__
    return (
        same_maker
        and model_manifest(manifest).source_sha256 == task.sha256
        and model_manifest(manifest).model == task.spec
    )


def built_engine(task: Task) -> File:
    """Build ``model.frcnn`` for TensorRT-RTX, where there is a GPU to run it.

    Raises:
        CannotRunError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise CannotRunError("it runs on an NVIDIA GPU, and this system has none that PyTorch finds")
    from frcnn.exporter.engine.artifact import build_engine

    path = task.folder / "model.frcnn"
    source = built_onnx(task)
    if _is_current(path, task):
        return File(path=path, precision="fp32")
    task.say("building model.frcnn")
    started = time.perf_counter()
    manifest = build_engine(source.path, path, batch="1:1:8")
    return File(path=path, precision=manifest.precision, build_s=time.perf_counter() - started)


def naive_onnx(task: Task) -> File:
    """Export the model as torchvision itself offers: traced, for one image of one size."""
    import torch

    from frcnn.benchmarks.candidates.eager_detector import to_tensor

    height, width = task.equal_images[0].size
    path = task.folder / f"torchvision-{height}x{width}.onnx"
    key = f"{task.sha256} {height}x{width} torch {torch.__version__} {hash_of(task)}"
    if task.sha256 is not None and _naive_key(path) == key:
        return File(path=path, precision="fp32")
    task.say("torchvision's own ONNX export")
    started = time.perf_counter()
    with warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")
        image = to_tensor(task.equal_images[0])
        torch.onnx.export(task.model, ([image],), temporary, dynamo=False, opset_version=17, input_names=["image"])
        proto = onnx.load(temporary)
        proto.metadata_props.add(key=_NAIVE_KEY, value=key)
        onnx.save_model(proto, temporary)
    return File(path=path, precision="fp32", build_s=time.perf_counter() - started)


def hash_of(task: Task) -> str:
    """Return a short name of the model's description: options change it, and the weights' hash does not tell."""
    import hashlib

    import msgspec

    return hashlib.sha256(msgspec.json.encode(task.spec)).hexdigest()[:12]


def _naive_key(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # whatever a broken file makes protobuf raise, the answer is to export anew
        return None
    return next((p.value for p in proto.metadata_props if p.key == _NAIVE_KEY), None)
