"""A process in which NVIDIA's ``tensorrt.plugin`` runs without a GPU: in TensorRT where it is installed.

Elsewhere its bindings run without it. They need nine C functions of three libraries. TensorRT-RTX, whose wheel is on
PyPI, has all but ``initLibNvInferPlugins``, so its libraries lie in a folder under TensorRT's names, beside a stub of
that function. This is enough to register plugins and call their Python side.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frcnn.plugins.kernel import Kernel
from support.processes import ROOT, run_python

STUB = "int initLibNvInferPlugins(void *logger, char const *name_space) { return 1; }\n"
LIBRARIES = {"libnvinfer.so.11": "libtensorrt_rtx.so.1", "libnvonnxparser.so.11": "libtensorrt_onnxparser_rtx.so.1"}

PROBE = """
import tensorrt
import tensorrt.plugin
tensorrt.init_libnvinfer_plugins(None, "")
print("version", tensorrt.__version__ if hasattr(tensorrt.plugin, "aot_impl") else "")
"""
"""Prints the release of TensorRT whose libraries are here, or nothing for one before ahead-of-time plugins."""

PRELUDE = """
import sys
from pathlib import Path
import msgspec
from support.tensorrt_driver import create, drive, trt, trtp
from frcnn.plugins.tensorrt import callback_error, register
letter = Path(sys.argv[1])
given = msgspec.msgpack.decode(letter.read_bytes())
result = None
"""
EPILOGUE = """
letter.write_bytes(msgspec.msgpack.encode(result))
"""


@cache
def installed_tensorrt() -> str | None:
    """Return the release of TensorRT that the contract runs in, or None where the stand-in takes its place."""
    if importlib.util.find_spec("tensorrt") is None:
        return None
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=300)
    *_, version = ["", *(line.removeprefix("version ") for line in done.stdout.splitlines() if line[:8] == "version ")]
    return version or None


def describe_tensorrt() -> str:
    """Return which TensorRT the contract tests run in, for the head of a run's log."""
    version = installed_tensorrt()
    return f"contract tests: {f'TensorRT {version}' if version else 'stand-in for TensorRT (TensorRT-RTX libraries)'}"


def make_libraries(folder: Path) -> Path:
    """Fill a folder with the libraries that the bindings ask for, or skip the test where that cannot be done."""
    if installed_tensorrt():
        return folder
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("a C compiler is needed for the one-function stub of libnvinfer_plugin.so.11")
    for package in ("tensorrt_bindings", "tensorrt_rtx_libs"):
        assert importlib.util.find_spec(package) is not None, f"{package} is a dependency of the tests"
    rtx = importlib.util.find_spec("tensorrt_rtx_libs")
    assert rtx is not None and rtx.origin is not None
    for name, target in LIBRARIES.items():
        (folder / name).symlink_to(Path(rtx.origin).parent / target)
    stub = folder / "stub.c"
    stub.write_text(STUB, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", stub, "-o", folder / "libnvinfer_plugin.so.11"], check=True)
    return folder


def recorded(kernel: Kernel, architecture: str) -> bytes:
    """Return what a kernel would be compiled from in the place of its code, for plugins that need no compiler."""
    return f"{kernel.entry} of {kernel.source} for {architecture} with {kernel.macros()}".encode()


class Contract:
    """Runs code against NVIDIA's plugin code, each time in a process of its own, with what ``make_libraries`` made."""

    def __init__(self, libraries: Path) -> None:
        self._libraries = libraries

    def __call__(self, code: str, given: Any = None) -> Any:
        """Run code that has ``given`` and the names of ``tensorrt_driver``, and return its ``result``."""
        variables = {"FRCNN_CACHE_DIR": str(self._libraries / "cache")}
        if installed_tensorrt():
            variables["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), *sys.path))
        else:
            variables["LD_LIBRARY_PATH"] = str(self._libraries)
        with tempfile.TemporaryDirectory() as folder:
            letter = Path(folder, "letter")
            letter.write_bytes(msgspec.msgpack.encode(given))
            run_python(PRELUDE + code + EPILOGUE, letter, PYTHONWARNINGS="error", **variables)
            return msgspec.msgpack.decode(letter.read_bytes())
