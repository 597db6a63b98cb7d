"""What TensorRT-RTX's compiled kernels are kept under, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from frcnn.runtime.engines.tensorrt_engine import cache_key, default_runtime_cache


def key(engine: bytes = b"engine", **changed: str) -> bytes:
    system = {
        "gpu": "A GPU",
        "compute_capability": "8.9",
        "driver_cuda_version": "13.0",
        "tensorrt_version": "1.7.1",
    }
    return cache_key(engine, **system | changed)


def test_every_part_of_the_key_counts() -> None:
    keys = {
        key(),
        key(b"another"),
        key(gpu="B"),
        key(compute_capability="8.6"),
        key(driver_cuda_version="13.1"),
        key(tensorrt_version="1.8.0"),
    }
    assert len(keys) == 6
    assert key() == key()
    assert {len(found) for found in keys} == {32}


def test_the_cache_is_beside_that_of_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    assert default_runtime_cache().folder == tmp_path / "tensorrt-rtx"
    assert default_runtime_cache().max_bytes == 1 << 30
