"""NNCF's int8 of a graph, for OpenVINO: what a user would quantise with who does not know ``frcnn quantize``."""

from __future__ import annotations

import hashlib
import importlib
import io
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.artifacts import onnx_manifest
from frcnn.benchmarks.candidates.candidate import LEFT_OUT, CannotRunError, File, Task, time_limit
from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.benchmarks.candidates.model_files import naive_onnx
from frcnn.benchmarks.candidates.runners import openvino_settings
from frcnn.files import file_sha256
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.dependencies import import_openvino, openvino_core
from frcnn.runtime.images.preprocess import prepare
from frcnn.spec import Manifest
from frcnn.spec.engine import INPUTS, OUTPUTS

_IMAGES: Final = 8
_NETWORKS: Final = ("backbone/", "rpn/head/", "roi_heads/box_head/")
_KINDS: Final = ("Convolution", "MatMul", "Add", "Relu", "MaxPool")
_NO_OPERATIONS: Final = ("Constant", "Parameter", "Result")
_MANIFEST: Final = "frcnn_manifest"

Feed = Mapping[str, NDArray[Any]]


class NncfNetwork:
    """A ``Network`` on what ``nncf_of_ours`` made."""

    def __init__(self, path: Path, *, threads: int, hint: str | None = None) -> None:
        with openvino_core() as core:
            model = core.read_model(str(path))
            compiled = core.compile_model(model, "CPU", openvino_settings(threads, hint))
        self._request: Any = compiled.create_infer_request()
        self.manifest = Manifest.from_json(model.get_rt_info(_MANIFEST).astype(str), source=str(path))

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; see ``Network.run``."""
        found = self._request.infer(dict(zip(INPUTS, (images, image_sizes), strict=True)), share_inputs=True)
        return NetworkOutput(**{name: found[name] for name in OUTPUTS})

    def close(self) -> None:
        """Release the model."""
        self._request = None


def nncf_of_ours(source: Callable[[Task], File]) -> Callable[[Task], File]:
    """Return a function that quantises a float32 ``model.onnx`` of ours, calibrated through our preprocessing.

    Several candidates run its file; what failed for the first of them is not tried again.
    """
    failures: list[CannotRunError] = []

    def prepare_file(task: Task) -> File:
        for failure in failures:
            raise failure
        try:
            return make(task)
        except CannotRunError as error:
            failures.append(error)
            raise

    def make(task: Task) -> File:
        from onnx import load
        from onnx.inliner import inline_local_functions

        path = source(task).path
        manifest = onnx_manifest(path)

        def read() -> Any:
            with openvino_core() as core:
                model = core.read_model(inline_local_functions(load(path)).SerializeToString())
            model.set_rt_info(manifest.to_json(), _MANIFEST)
            return model

        def feed(index: int) -> Feed:
            placed = prepare(task.images[index], manifest)
            return dict(zip(INPUTS, (placed.pixels[None], np.array([placed.resized], np.int32)), strict=True))

        return _quantised(task, "model", path, read, [feed(index) for index in range(len(task.images))[:_IMAGES]])

    return prepare_file


def nncf_of_naive(task: Task) -> File:
    """Quantise torchvision's own export.

    NNCF 3.4 fails on the model as OpenVINO reads it, which has nodes that lead nowhere; a copy has none.
    """
    path = naive_onnx(task).path
    feeds = [{"image": np.ascontiguousarray(to_tensor(image).numpy())} for image in task.equal_images[:_IMAGES]]

    def read() -> Any:
        with openvino_core() as core:
            return core.read_model(str(path)).clone()

    return _quantised(task, path.stem, path, read, feeds)


def _quantised(task: Task, name: str, source: Path, read: Callable[[], Any], feeds: Sequence[Feed]) -> File:
    """Quantise a model's networks by NNCF's defaults, unless the folder has just that already.

    All else is left out, and the box predictor: with it OpenVINO refuses the file, or boxes are decoded in int8.
    """
    if not task.compile_limit_s:
        raise CannotRunError(LEFT_OUT)
    openvino = import_openvino()
    with _silent():
        nncf = _import_nncf()
        key = hashlib.sha256(f"{file_sha256(source)} {version('nncf')} {version('openvino')}".encode())
        for array in (array for feed in feeds for array in feed.values()):
            key.update(array.tobytes())
        path = task.folder / f"{name}-nncf-{key.hexdigest()[:12]}.xml"
        weights = path.with_suffix(".bin")
        if path.exists() and weights.exists():
            return File(path=path, weights=weights)
        task.log(f"building {path.name}")
        started = time.perf_counter()
        model = read()
        nodes = {node.get_friendly_name(): node.get_type_name() for node in model.get_ordered_ops()}
        apart = [node for node, kind in nodes.items() if kind in _KINDS and not node.lstrip("/").startswith(_NETWORKS)]
        left_out = nncf.IgnoredScope(
            names=apart, types=sorted(set(nodes.values()) - {*_KINDS, *_NO_OPERATIONS}), validate=False
        )
        with time_limit(task.compile_limit_s, "NNCF"):
            quantised = nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds), ignored_scope=left_out)
        with TemporaryDirectory(dir=task.folder) as folder:
            made = Path(folder) / path.name
            openvino.save_model(quantised, str(made), compress_to_fp16=False)
            made.with_suffix(".bin").replace(weights)
            made.replace(path)
    return File(path=path, weights=weights, build_s=time.perf_counter() - started)


def _import_nncf() -> Any:
    """Import NNCF; its telemetry sends and writes into the user's home unless ``openvino_telemetry`` is missing."""
    name = "openvino_telemetry"
    known = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # as the import system means it
    try:
        nncf: Any = importlib.import_module("nncf")  # no type information, and seldom installed
    except ImportError as error:
        raise CannotRunError("the package nncf is not installed (pip install nncf)") from error
    finally:
        del sys.modules[name]
        if known is not None:
            sys.modules[name] = known
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function also changes handlers, whosever they are
    return nncf


@contextmanager
def _silent() -> Iterator[None]:
    """Keep NNCF's progress bars and its warnings off the terminal."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
