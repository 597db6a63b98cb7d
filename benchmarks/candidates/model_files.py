"""The model files that candidates run: given, or built into the report's folder and found there the next time."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import onnx

from frcnn._version import __version__
from frcnn.benchmarks.candidates.artifacts import model_difference, model_manifest
from frcnn.benchmarks.candidates.candidate import CannotRunError, File, Task
from frcnn.errors import ArtifactError, FrcnnError
from frcnn.files import replacing
from frcnn.runtime.model_files.artifact import open_artifact

NO_GPU: Final = "no NVIDIA GPU: it runs on one, and PyTorch finds none"
_NAIVE_KEY: Final = "frcnn.bench"


def given_file(path: Path) -> Callable[[Task], File]:
    """Return a function that checks that an artifact the user gave is of the checkpoint's model."""

    def check(task: Task) -> File:
        manifest = open_artifact(path).manifest
        difference = model_difference(task.spec, manifest)
        if difference:
            raise ArtifactError(f"{path.name} is another model than the checkpoint: {difference}")
        source = model_manifest(manifest).source_sha256
        if source is not None and task.sha256 is not None and source != task.sha256:
            expected = f"expected {task.sha256[:12]}..."
            raise ArtifactError(f"{path.name} was made from another checkpoint: SHA-256 {source[:12]}..., {expected}")
        return File(path=path)

    return check


def built_onnx(task: Task) -> File:
    """Export ``model.onnx``, unless the folder has that of this checkpoint, these options and this frcnn already."""
    from frcnn.exporter.graph.export import export_onnx

    def export(path: Path) -> None:
        export_onnx(
            task.model, path, labels=task.spec.labels, architecture=task.spec.architecture, source_sha256=task.sha256
        )

    return _built(task, "model.onnx", _is_current, export)


def built_engine(task: Task) -> File:
    """Build ``model.frcnn`` for the GPU that is here."""
    import torch

    if not torch.cuda.is_available():
        raise CannotRunError(NO_GPU)
    from frcnn.exporter.engine.artifact import build_engine

    source = built_onnx(task)
    return _built(task, "model.frcnn", _is_current, lambda path: build_engine(source.path, path, batch="1:1:8"))


def naive_onnx(task: Task) -> File:
    """Export the model as torchvision itself offers: traced, for one image of one size."""
    import torch

    from frcnn.benchmarks.candidates.eager_detector import to_tensor

    if task.spec.transform.resize != "torchvision":
        raise CannotRunError("torchvision exports its own models; this one resizes as another trainer does")
    image = task.equal_images[0]
    size = f"{image.size[0]}x{image.size[1]}"
    # options change the description, and the weights' hash does not show them
    spec = hashlib.sha256(msgspec.json.encode(task.spec)).hexdigest()[:12]
    key = f"{task.sha256} {size} torch {torch.__version__} {spec}"

    def export(path: Path) -> None:
        with warnings.catch_warnings(), replacing(path) as temporary:
            warnings.simplefilter("ignore")
            inputs = ([to_tensor(image)],)
            torch.onnx.export(task.model, inputs, temporary, dynamo=False, opset_version=17, input_names=["image"])
            proto = onnx.load(temporary)
            proto.metadata_props.add(key=_NAIVE_KEY, value=key)
            onnx.save_model(proto, temporary)

    return _built(task, f"torchvision-{size}.onnx", lambda path, _: _naive_key(path) == key, export)


def _built(task: Task, name: str, is_current: Callable[[Path, Task], bool], build: Callable[[Path], object]) -> File:
    """Build a float32 file, unless an earlier run left what this run would build."""
    path = task.folder / name
    if task.sha256 is not None and path.exists() and is_current(path, task):
        return File(path=path)
    task.log(f"building {name}")
    started = time.perf_counter()
    build(path)
    return File(path=path, build_s=time.perf_counter() - started)


def _is_current(path: Path, task: Task) -> bool:
    try:
        manifest = open_artifact(path).manifest
    except FrcnnError:
        return False
    source = model_manifest(manifest)
    made_by = manifest.versions.get("frcnn")
    return (made_by, source.source_sha256, source.model) == (__version__, task.sha256, task.spec)


def _naive_key(path: Path) -> str | None:
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # whatever a broken file makes protobuf raise: it is exported anew
        return None
    return next((p.value for p in proto.metadata_props if p.key == _NAIVE_KEY), None)
