"""Load a model file: choose and open the backend that executes it, and again in another process."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from frcnn.errors import ArtifactError, FrcnnError, UsageError, one_line, printable
from frcnn.files import file_sha256
from frcnn.log import LOGGER
from frcnn.runtime.backend import Backend, Device, Network
from frcnn.runtime.dependencies import TensorRTLibrary, import_onnxruntime_gpu
from frcnn.runtime.engines.compatibility import check_gpu, check_runs_here, choose_tensorrt
from frcnn.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from frcnn.runtime.engines.tensorrt_engine import default_runtime_cache, load_engine
from frcnn.runtime.gpu.backend import DEFAULT_WORKERS, EngineBackend
from frcnn.runtime.gpu.cuda_calls import driver_cuda_version
from frcnn.runtime.gpu.cuda_device import CudaDevice
from frcnn.runtime.gpu.device import Engine
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.runtime.host.providers import Provider, RunPrecision, RunProvider, check_precision, chosen_provider
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.runtime.tuned import Tuned, load_options, read_tuned, tuned_path
from frcnn.spec import Manifest
from frcnn.spec.engine import EngineStep

_HINT: Final = "a detector that was pickled or forked is loaded anew: its file must lie unchanged at the same path"


def load_backend(
    path: str | os.PathLike[str],
    *,
    device: Device | None,
    provider: Provider | None,
    precision: RunPrecision | None,
    threads: int | None,
    trusted_hashes: Collection[str] | None,
    workers: int | None,
) -> tuple[Backend, Manifest]:
    """Return the backend of a model file and the model's manifest; arguments and errors as ``Detector.load``."""
    artifact = open_artifact(path)
    if isinstance(artifact, EngineArtifact):
        check_engine_options(path, device=device, provider=provider, precision=precision, threads=threads)
        maximum = DEFAULT_WORKERS if workers is None else workers
        if maximum < 1:
            raise UsageError(f"workers: expected 1 or more, got {workers}")
        gpu, engines = open_engines(artifact, trusted_hashes=trusted_hashes)
        backend = EngineBackend(artifact.manifest, artifact.read_part, gpu, engines, workers=maximum)
        return backend, artifact.manifest.source
    _refuse(trusted_hashes=trusted_hashes, workers=workers, why="a model.onnx holds no engines")
    chosen = chosen_provider(device, provider)
    check_precision(chosen, precision)
    if chosen == "tuned":
        _refuse(threads=threads, why="provider 'tuned' has its own")
        return load_tuned(artifact)
    return load_onnx(artifact, provider=chosen, precision=precision, threads=threads)


def load_onnx(
    artifact: OnnxArtifact, *, provider: RunProvider, precision: RunPrecision | None, threads: int | None
) -> tuple[Backend, Manifest]:
    """Return the backend of a ``model.onnx`` on one provider, and its manifest; see ``Detector.load``."""
    network: Network
    if provider == "openvino":
        network = OpenVinoBackend(artifact.path, precision=precision or "fp32", threads=threads)
    else:
        network = OnnxRuntimeBackend(artifact.path, provider=provider, threads=threads)
    return HostBackend(network, artifact.manifest, on_gpu=provider in ("cuda", "tensorrt")), artifact.manifest


def load_tuned(artifact: OnnxArtifact) -> tuple[Backend, Manifest]:
    """Return what :func:`load_onnx` does for the choice of the tuned file, or for the default where it has none.

    The manifest is that of the int8 model where the choice is one.
    """
    tuned = read_tuned(artifact)
    if not isinstance(tuned, Tuned):
        why = f"there is no {tuned_path(artifact.path)}" if tuned is None else tuned.reason
        LOGGER.warning("frcnn: provider 'tuned': %s; the default runs it (frcnn tune makes the file)", printable(why))
        return load_onnx(artifact, provider="cpu", precision=None, threads=None)
    LOGGER.info("frcnn: %s", printable(tuned.text))
    return load_onnx(tuned.artifact, **load_options(tuned.setting))


def check_engine_options(
    path: str | os.PathLike[str],
    *,
    device: Device | None,
    provider: Provider | None,
    precision: RunPrecision | None,
    threads: int | None,
) -> None:
    """Refuse options that do not apply to an engine artifact."""
    _refuse(threads=threads, provider=provider, why="an engine runs on the GPU")
    _refuse(precision=precision, why="an engine is built for its own")
    if device == "cpu":
        raise UsageError(
            f"device: {os.fspath(path)} holds engines for a GPU, got device {device!r}",
            hint="the model.onnx that it was built from runs on the processor",
        )


def open_engines(
    artifact: EngineArtifact, *, trusted_hashes: Collection[str] | None
) -> tuple[CudaDevice, dict[str, Engine]]:
    """Check an artifact in every way, then load its engines: TensorRT's are code.

    Return the GPU, and the engines on it by part; the caller closes them, the GPU last.
    """
    manifest = artifact.manifest
    artifact.check_trusted(trusted_hashes)
    artifact.check_parts()
    gpu = CudaDevice()
    engines: dict[str, Engine] = {}
    try:
        check_gpu(artifact, gpu.compute_capability)  # before a package is imported that would not serve it
        load: Callable[[str], Engine]
        if manifest.target == "onnxruntime":
            package = import_onnxruntime_gpu()
            load = partial(_onnxruntime_engine, artifact, package, gpu)
        else:
            library, package = choose_tensorrt(artifact)
            load = partial(_tensorrt_engine, artifact, library, gpu)
        check_runs_here(
            artifact,
            target_version=package.__version__,
            compute_capability=gpu.compute_capability,
            driver_cuda_version=driver_cuda_version(),
            free_bytes=gpu.free_bytes(),
        )
        for part in dict.fromkeys(step.part for step in manifest.steps if isinstance(step, EngineStep)):
            engines[part] = load(part)
    except BaseException:
        with suppress(FrcnnError), ExitStack() as stack:
            stack.callback(gpu.close)
            for engine in engines.values():
                stack.callback(engine.close)
        raise
    return gpu, engines


def _tensorrt_engine(artifact: EngineArtifact, library: TensorRTLibrary, gpu: CudaDevice, part: str) -> Engine:
    return load_engine(
        artifact.read_part(part),
        target=library,
        device=gpu,
        cache=default_runtime_cache(),
        manifest=artifact.manifest,
        part=part,
    )


def _onnxruntime_engine(artifact: EngineArtifact, onnxruntime: ModuleType, gpu: CudaDevice, part: str) -> Engine:
    if not gpu.is_primary_context:
        raise ArtifactError(
            "ONNX Runtime works in the GPU's primary context only, and another one is current on this thread",
            hint="with PyCUDA import pycuda.autoprimaryctx, not pycuda.autoinit",
        )
    return OnnxRuntimeEngine(
        onnxruntime,
        artifact.read_part(part),
        provider="cuda",
        device=gpu,
        device_id=gpu.index,
        tensors=artifact.manifest.tensors,
        precision=artifact.manifest.precision,
        name=f"{artifact.path}, {part}",
    )


def _refuse(*, why: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name}: {why}, got {value!r}", hint=f"leave {name} out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a detector was loaded from: the absolute path of a file, and options of :func:`load_backend`.

    ``state`` tells on this system whether the file was changed since; ``sha256``, which is empty until it is needed,
    does so on another one.
    """

    path: Path
    options: dict[str, Any]
    state: tuple[int, ...]
    sha256: str = ""

    @classmethod
    def of(cls, path: str | os.PathLike[str], options: dict[str, Any]) -> Origin:
        """Return the origin of a detector that is to be loaded now."""
        whole = Path(path).absolute()
        return cls(path=whole, options=options, state=_state(whole))

    def load(self) -> tuple[Backend, Manifest]:
        """Load the file again; errors as ``Detector.load``, or an ``ArtifactError`` where it is another one now."""
        self._check()
        return load_backend(self.path, **self.options)

    def hashed(self) -> Origin:
        """Return the origin with the hash of the file; an ``ArtifactError`` where it is another one by then."""
        if self.sha256:
            return self
        self._check()
        return replace(self, sha256=file_sha256(self.path))

    def _check(self) -> None:
        try:
            same = file_sha256(self.path) == self.sha256 if self.sha256 else _state(self.path) == self.state
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot be read: {one_line(error)}", hint=_HINT) from error
        if not same:
            raise ArtifactError(f"{self.path}: not the file any more that the detector was loaded from", hint=_HINT)


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:  # loading says what is wrong with it
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
