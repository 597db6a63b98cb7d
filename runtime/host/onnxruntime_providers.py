"""Which of ONNX Runtime's execution providers runs a model, and with which options.

The operators of the domain ``frcnn`` reach every provider as standard operators: ONNX Runtime inlines their function
bodies before it hands out nodes. What a GPU's provider has no kernel for runs on the CPU between the others.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from frcnn.errors import OutputError, UsageError
from frcnn.files import writable_folder
from frcnn.plugins.cuda.kernel_cache import default_cache, remark_not_kept
from frcnn.runtime.backend import Device

__all__ = ["PROVIDERS", "Provider", "chosen_provider", "default_folder", "execution_providers", "provider_names"]

Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: Final[tuple[Provider, ...]] = ("cpu", "cuda", "tensorrt")

Options = dict[str, str]

_DEVICES: Final[dict[Provider, Device]] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
_USUAL: Final[dict[Device, Provider]] = {"cpu": "cpu", "cuda": "cuda"}
_NAMES: Final[dict[Provider, tuple[str, ...]]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    # what TensorRT does not take (NonMaxSuppression, RoiAlign, NonZero) is CUDA's
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}

_CUDA_OPTIONS: Final[Options] = {
    # float32 is float32: TF32 has 10 bits of mantissa, as many as float16
    "use_tf32": "0",
    # the default, EXHAUSTIVE, times every algorithm anew for every shape of input, and the fastest of today may not be
    # that of tomorrow: answers would differ in their last bits from load to load
    "cudnn_conv_algo_search": "HEURISTIC",
}
# The file says what each layer computes in; a flag would let TensorRT choose less for the float32 ones too.
_TENSORRT_OPTIONS: Final[Options] = {"trt_fp16_enable": "0", "trt_int8_enable": "0"}


def chosen_provider(device: Device, provider: Provider | None) -> Provider:
    """Return the provider to run with.

    Args:
        device: where to run.
        provider: what was asked for; None: ``"cuda"`` on a GPU, ``"cpu"`` otherwise.

    Raises:
        UsageError: there is no such device or provider, or the provider does not run on the device.
    """
    if device not in _USUAL:
        raise UsageError(f"device: expected one of {', '.join(_USUAL)}, got {device!r}")
    if provider is None:
        return _USUAL[device]
    if provider not in _DEVICES:
        raise UsageError(f"provider: expected one of {', '.join(PROVIDERS)}, got {provider!r}")
    if _DEVICES[provider] != device:
        raise UsageError(
            f"provider: {provider!r} runs on device {_DEVICES[provider]!r}, got device {device!r}",
            hint=f"give device {_DEVICES[provider]!r}, or provider {_USUAL[device]!r}",
        )
    return provider


def provider_names(provider: Provider) -> tuple[str, ...]:
    """Return ONNX Runtime's names of what must be there, the one that is asked first to begin with."""
    return _NAMES[provider]


def execution_providers(provider: Provider, model: Path, *, cache: Path | None) -> list[tuple[str, Options]]:
    """Return what ``onnxruntime.InferenceSession`` takes as ``providers``.

    TensorRT builds engines whenever a canvas or a batch is larger or smaller than any before, which takes long, and
    keeps them in the cache.

    Args:
        provider: which one.
        model: the model file.
        cache: folder for TensorRT's engines; None keeps none.
    """
    options: dict[str, Options] = {
        "CPUExecutionProvider": {},
        "CUDAExecutionProvider": _CUDA_OPTIONS,
        "TensorrtExecutionProvider": _TENSORRT_OPTIONS,
    }
    if provider == "tensorrt" and cache is not None:
        options["TensorrtExecutionProvider"] = _TENSORRT_OPTIONS | _kept_in(cache / _content_key(model))
    return [(name, dict(options[name])) for name in _NAMES[provider]]


def default_folder() -> Path | None:
    """Return the folder of the user's cache that is for ONNX Runtime's TensorRT engines; None without one.

    See :func:`frcnn.plugins.cuda.kernel_cache.default_cache`.
    """
    kernels = default_cache().folder
    return None if kernels is None else kernels.parent / "onnxruntime-tensorrt"


def _kept_in(folder: Path) -> Options:
    try:
        writable_folder(folder)
        with suppress(OSError):
            folder.chmod(0o700)  # an engine is code: nobody else may put one here
    except OutputError as error:
        remark_not_kept(folder, error.message)
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _content_key(model: Path) -> str:
    """Return what tells one model's engines from another's.

    ONNX Runtime names an engine after the file's name and the graph, not after the weights: two checkpoints of one
    architecture would find each other's engines.
    """
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
