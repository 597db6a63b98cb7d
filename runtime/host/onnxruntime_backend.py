"""Execute ``model.onnx`` with ONNX Runtime, on the CPU or an NVIDIA GPU.

Every provider sees the operators of the domain ``frcnn`` as standard operators: ONNX Runtime inlines their function
bodies first. Nodes that a GPU's provider has no kernel for run on the CPU.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, MissingDependencyError, OutputError, one_line
from frcnn.files import file_sha256, native_path, writable_folder
from frcnn.plugins.cuda.kernel_cache import default_cache, warn_not_kept
from frcnn.runtime.backend import NetworkOutput, closed_error
from frcnn.runtime.dependencies import import_onnxruntime
from frcnn.runtime.host.backend import REMAKE, check_values, checked_output, checked_threads, run_error
from frcnn.runtime.images.preprocess import bfloat16_bits
from frcnn.runtime.model_files.onnx_outline import read_outline
from frcnn.runtime.onnxruntime_sessions import CUDA_OPTIONS, load_cuda_libraries, session_options
from frcnn.spec import MANIFEST_KEY, Manifest, Precision
from frcnn.spec.engine import OUTPUTS

OnnxRuntimeProvider = Literal["cpu", "cuda", "tensorrt"]

Options = dict[str, str]

PROVIDER_NAMES: Final[dict[OnnxRuntimeProvider, tuple[str, ...]]] = {  # all must be there, the preferred first
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    # CUDA runs what TensorRT does not take (NonMaxSuppression, RoiAlign, NonZero)
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}

# The file sets the precision of each layer; a flag would let TensorRT lower that of the float32 layers.
_TENSORRT_OPTIONS: Final[Options] = {"trt_fp16_enable": "0", "trt_int8_enable": "0"}

_IMAGE_TYPES: Final = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
_BFLOAT16: Final = 16  # onnx.TensorProto.BFLOAT16; the package onnx is not needed to run a model
_UPGRADE: Final = "upgrade onnxruntime-gpu, which learnt bf16 bit by bit, or build an engine: frcnn build model.onnx"


class OnnxRuntimeBackend:
    """A ``Network`` on ONNX Runtime, on ``threads`` threads: by default all processors this process may use.

    TensorRT needs its libraries, builds engines on the first image of a size and keeps them in the user's cache (see
    ``$FRCNN_CACHE_DIR``). CUDA computes the float32 layers in float32; TensorRT uses TF32 for them unless the
    environment has ``NVIDIA_TF32_OVERRIDE=0``.
    """

    def __init__(self, path: Path, *, provider: OnnxRuntimeProvider = "cpu", threads: int | None = None) -> None:
        threads = checked_threads(threads)
        onnxruntime = import_onnxruntime()
        precision = _precision(path)
        if precision == "bf16" and provider == "cpu":  # its own error names the first node without a kernel
            raise ArtifactError(
                f"{path} is bf16, which ONNX Runtime has no CPU kernels for",
                hint=f"build it for a GPU: frcnn build {path} --target tensorrt-rtx; or export with --precision fp32",
            )
        self._path = path
        self._ort_value: Any = onnxruntime.OrtValue
        self._session: Any = _session(onnxruntime, path, provider, precision, threads)
        inputs = {value.name: value.type for value in self._session.get_inputs()}
        outputs = {value.name: value.type for value in self._session.get_outputs()}
        check_values(path, inputs, outputs, integer="tensor(int32)", floating=_IMAGE_TYPES)
        self._image_type = inputs["images"]

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; see ``Network.run``."""
        session = self._session
        if session is None:
            raise closed_error()
        try:
            outputs = self._outputs(session, images, image_sizes)
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise run_error(self._path, "ONNX Runtime", images.shape, one_line(error)) from error
        return checked_output(self._path, len(images), outputs)

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _outputs(self, session: Any, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> list[NDArray[Any]]:
        if self._image_type != "tensor(bfloat16)":
            dtype = np.float16 if self._image_type == "tensor(float16)" else np.float32
            feeds = {"images": images.astype(dtype, copy=False), "image_sizes": image_sizes}
            outputs: list[NDArray[Any]] = session.run(list(OUTPUTS), feeds)
            return outputs
        bits = bfloat16_bits(images)  # named: the value below only points to it
        values = {
            "images": self._ort_value.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16),
            "image_sizes": self._ort_value.ortvalue_from_numpy(image_sizes),
        }
        return [value.numpy() for value in session.run_with_ort_values(list(OUTPUTS), values)]


def _precision(path: Path) -> Precision | None:
    """Return the precision of a model that has a manifest."""
    manifest = read_outline(path).metadata.get(MANIFEST_KEY)
    return None if manifest is None else Manifest.from_json(manifest, source=os.fspath(path)).precision


def _session(
    onnxruntime: ModuleType, path: Path, provider: OnnxRuntimeProvider, precision: Precision | None, threads: int
) -> Any:
    wanted = PROVIDER_NAMES[provider]
    available = onnxruntime.get_available_providers()
    if not set(wanted) <= set(available):
        raise MissingDependencyError(
            "onnxruntime-gpu", extra="gpu", why=f"provider {provider!r} (this onnxruntime has {', '.join(available)})"
        )
    if provider != "cpu":
        load_cuda_libraries(onnxruntime)
    options = session_options(onnxruntime, threads)
    providers = execution_providers(provider, path, cache=default_folder())
    try:
        # without its own fallback, which prints and goes on with a slower provider
        with native_path(path) as name:
            session = onnxruntime.InferenceSession(name, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
        hint = _UPGRADE if precision == "bf16" else REMAKE
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {one_line(error)}", hint=hint) from error
    started = tuple(session.get_providers())
    missing = [name for name in wanted if name not in started]
    if missing:
        libraries = "TensorRT, CUDA and cuDNN" if provider == "tensorrt" else "CUDA and cuDNN"
        raise ArtifactError(
            f"provider {provider!r}: ONNX Runtime's {missing[0]} did not start and it fell back to {started[0]}",
            hint=f"install the {libraries} libraries that this onnxruntime-gpu needs, or use device 'cpu'",
        )
    return session


def execution_providers(provider: OnnxRuntimeProvider, model: Path, *, cache: Path | None) -> list[tuple[str, Options]]:
    """Return the ``providers`` of ``onnxruntime.InferenceSession``.

    TensorRT builds engines whenever a canvas or a batch is larger or smaller than any before, which takes long, and
    keeps them in the cache where there is one, by the model's content: ONNX Runtime names an engine after the file and
    the graph, so two checkpoints of one architecture would find each other's.
    """
    options: dict[str, Options] = {
        "CPUExecutionProvider": {},
        "CUDAExecutionProvider": dict(CUDA_OPTIONS),
        "TensorrtExecutionProvider": _TENSORRT_OPTIONS,
    }
    if provider == "tensorrt" and cache is not None:
        options["TensorrtExecutionProvider"] = _TENSORRT_OPTIONS | _kept_in(cache / file_sha256(model)[:32])
    return [(name, dict(options[name])) for name in PROVIDER_NAMES[provider]]


def default_folder() -> Path | None:
    """Return the folder for ONNX Runtime's TensorRT engines in the user's cache, or None; see ``default_cache``."""
    return default_cache("onnxruntime-tensorrt").folder


def _kept_in(folder: Path) -> Options:
    try:
        writable_folder(folder)
        with suppress(OSError):
            folder.chmod(0o700)  # an engine is code: nobody else may put one here
    except OutputError as error:
        warn_not_kept(folder, error.message)
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
