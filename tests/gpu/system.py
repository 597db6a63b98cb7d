"""The GPU, if there is one, and processes that use it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]


def skip_or_fail(reason: str) -> NoReturn:
    if os.environ.get("FRCNN_REQUIRE_GPU") == "1":
        pytest.fail(f"FRCNN_REQUIRE_GPU=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def missing_gpu() -> str:
    """Return why there is no GPU (no driver or no device), or an empty text; anything else is a failure."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no CUDA driver here (libcuda.so.1)"
    count = ctypes.c_int()
    status = driver.cuInit(0)
    no_device = 100
    if status == no_device:
        return "there is no CUDA device here"
    assert status == 0, f"cuInit returned {status}"
    assert driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return "" if count.value else "there is no CUDA device here"


def run(command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command that finds frcnn even where it is not installed."""
    folders = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(folder for folder in folders if folder))
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)
