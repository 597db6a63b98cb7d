"""Where TensorRT-RTX's just-in-time compiled kernels are kept: only the first load on a system compiles them.

An entry holds the kernels of one engine on one kind of GPU and is replaced as a whole. Of several processes the last to
write wins; the kernels of another one are then compiled once more at most.
"""

from __future__ import annotations

import hashlib
from typing import Final

from frcnn.plugins.cuda.kernel_cache import KernelCache, default_cache

_SCHEMA: Final = "frcnn runtime cache 1"  # changes when the key or the entry means something else
_MAX_BYTES: Final = 1 << 30


def default_runtime_cache() -> KernelCache:
    """Return the cache for TensorRT-RTX's kernels, beside that of ours; see ``default_cache``."""
    kernels = default_cache().folder
    return KernelCache(None if kernels is None else kernels.parent / "tensorrt-rtx", _MAX_BYTES)


def cache_key(
    engine: bytes, *, gpu: str, compute_capability: str, driver_cuda_version: str, tensorrt_version: str
) -> bytes:
    """Return the key of an engine's kernels; TensorRT checks the driver itself, more closely."""
    digest = hashlib.sha256(engine).hexdigest()
    parts = (_SCHEMA, gpu, compute_capability, driver_cuda_version, tensorrt_version, digest)
    return hashlib.sha256("\0".join(parts).encode()).digest()
