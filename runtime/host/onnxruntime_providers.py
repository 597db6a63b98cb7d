"""The execution provider of ONNX Runtime that runs a model, and its options.

Every provider sees the operators of the domain ``frcnn`` as standard operators: ONNX Runtime inlines their function
bodies first. Nodes that a GPU's provider has no kernel for run on the CPU.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from frcnn.errors import OutputError
from frcnn.files import file_sha256, writable_folder
from frcnn.plugins.cuda.kernel_cache import default_cache, warn_not_kept
from frcnn.runtime.onnxruntime_sessions import CUDA_OPTIONS

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
    kernels = default_cache().folder
    return None if kernels is None else kernels.parent / "onnxruntime-tensorrt"


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
