"""What this system has of what frcnn can use. Looks, but imports nothing heavy and never fails."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from frcnn.runtime.doctor.check import Check, Status
from frcnn.runtime.doctor.cuda import find_cuda_driver, find_kernel_compiler, with_abilities
from frcnn.runtime.host.onnxruntime_backend import available_cpus

__all__ = ["Check", "Status", "can_detect", "look_around"]

_NVIDIA_SMI_SECONDS: Final = 15
_MIN_PYTHON: Final = (3, 11)
_GPU_FIX: Final = "an NVIDIA GPU and its driver (nvidia.com/drivers); frcnn detects on the CPU without"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Package:
    """A Python package: its module, the distributions that bring it, and the extra of frcnn that installs one."""

    name: str
    module: str
    distributions: tuple[str, ...]
    purpose: str
    extra: str
    essential: bool = False


_BASE: Final = (
    _Package(name="numpy", module="numpy", distributions=("numpy",), purpose="everything", extra="cpu", essential=True),
    _Package(
        name="pillow", module="PIL", distributions=("pillow",), purpose="reading images", extra="cpu", essential=True
    ),
    _Package(
        name="opencv",
        module="cv2",
        distributions=(
            "opencv-python-headless",
            "opencv-python",
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
        ),
        purpose="videos",
        extra="cpu",
    ),
    _Package(name="onnx", module="onnx", distributions=("onnx",), purpose="export, inspect", extra="cpu"),
)
_EXPORT: Final = tuple(
    _Package(name=name, module=name, distributions=(name,), purpose="export, compare", extra="export")
    for name in ("torch", "torchvision", "onnxscript")
)
_TENSORRT: Final = (
    _Package(
        name="tensorrt",
        module="tensorrt",
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        purpose="TensorRT artifacts",
        extra="tensorrt",
    ),
    _Package(
        name="tensorrt_rtx",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        purpose="TensorRT-RTX artifacts",
        extra="rtx",
    ),
)
_GPU: Final = (
    _Package(
        name="cuda-bindings",
        module="cuda.bindings",
        distributions=("cuda-bindings", "cuda-python"),
        purpose="CUDA kernels, graphs",
        extra="rtx",
    ),
    _Package(
        name="cuda-core", module="cuda.core", distributions=("cuda-core",), purpose="CUDA kernels, graphs", extra="rtx"
    ),
    _Package(name="pycuda", module="pycuda", distributions=("pycuda",), purpose="PyCUDA interface", extra="pycuda"),
)
_BENCH: Final = (
    _Package(
        name="supervision",
        module="supervision",
        distributions=("supervision",),
        purpose="Detections.to_supervision",
        extra="bench",
    ),
)


def look_around() -> list[Check]:
    """Return what is here and what is missing, in the order that a reader wants it."""
    compiler = find_kernel_compiler()
    driver, seen = find_cuda_driver()
    gpu, told = _nvidia_gpu()
    return [
        _system(),
        _python(),
        *(_package(package) for package in _BASE),
        _onnxruntime(),
        _onnxruntime_cuda(),
        *(_package(package) for package in _EXPORT),
        *(with_abilities(_package(package), driver, compiler, seen or told) for package in _TENSORRT),
        *(_package(package) for package in (*_GPU, *_BENCH)),
        compiler,
        driver,
        gpu,
    ]


def can_detect(findings: Sequence[Check]) -> bool:
    """Say whether ``frcnn detect`` works here."""
    return all(finding.status == "ok" for finding in findings if finding.essential)


def _system() -> Check:
    detail = (
        f"{platform.system()} {platform.release()} {platform.system()}, {available_cpus()} of {os.cpu_count()} CPUs"
    )
    return Check(name="system", status="ok", purpose="everything", detail=detail)


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] < _MIN_PYTHON:
        return Check(
            name="python",
            status="broken",
            purpose="everything",
            detail=version,
            fix="Python 3.11 or newer",
            essential=True,
        )
    return Check(name="python", status="ok", purpose="everything", detail=version, essential=True)


def _package(package: _Package) -> Check:
    """Look for a package without importing it."""
    there = _has_module(package.module)
    version = next(filter(None, map(_version, package.distributions)), "")
    fix = f"pip install 'frcnn[{package.extra}]'"
    if there:
        status: Status = "ok"
        detail, fix = version or "installed, version unknown", ""
    elif version:
        status, detail = "broken", f"{version} is installed, but there is no module {package.module}"
    else:
        status, detail = "missing", "not installed"
    return Check(
        name=package.name,
        status=status,
        purpose=package.purpose,
        detail=detail,
        fix=fix,
        essential=package.essential,
    )


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution) or ""
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return ""


def _onnxruntime_providers() -> tuple[list[str], str]:
    """Return ONNX Runtime's providers, or none and why not."""
    try:
        module = importlib.import_module("onnxruntime")
        return list(module.get_available_providers()), ""
    except Exception as error:  # a broken installation may raise anything
        return [], " ".join(str(error).split())[:200]


def _onnxruntime() -> Check:
    fix = "pip install 'frcnn[cpu]'"
    purpose = "detection"
    if not _has_module("onnxruntime"):
        return Check(
            name="onnxruntime", status="missing", purpose=purpose, detail="not installed", fix=fix, essential=True
        )
    providers, problem = _onnxruntime_providers()
    version = _version("onnxruntime") or _version("onnxruntime-gpu") or "version unknown"
    if "CPUExecutionProvider" not in providers:
        detail = f"{version} does not load: {problem or 'no CPU provider'}"
        return Check(name="onnxruntime", status="broken", purpose=purpose, detail=detail, fix=fix, essential=True)
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return Check(
        name="onnxruntime", status="ok", purpose=purpose, detail=f"{version}, providers: {names}", essential=True
    )


def _onnxruntime_cuda() -> Check:
    purpose = "detection on a GPU by ONNX Runtime"
    if "CUDAExecutionProvider" in _onnxruntime_providers()[0]:
        return Check(name="onnxruntime-gpu", status="ok", purpose=purpose, detail="CUDA provider present")
    fix = (
        "pip uninstall onnxruntime; pip install 'frcnn[gpu]'" if _version("onnxruntime") else "pip install 'frcnn[gpu]'"
    )
    return Check(name="onnxruntime-gpu", status="missing", purpose=purpose, detail="no CUDA provider", fix=fix)


def _nvidia_gpu() -> tuple[Check, tuple[str, ...]]:
    """Ask nvidia-smi, where there is one; return also the compute capabilities that it tells."""

    def finding(status: Status, detail: str, fix: str = _GPU_FIX) -> Check:
        return Check(name="NVIDIA GPU", status=status, purpose="TensorRT, CUDA", detail=detail, fix=fix)

    program = shutil.which("nvidia-smi")
    if program is None:
        return finding("missing", "no nvidia-smi"), ()
    query = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        return finding("broken", f"nvidia-smi: {error}"), ()
    said = "; ".join(line.strip() for line in (answer.stdout or answer.stderr).splitlines() if line.strip())
    if answer.returncode != 0 or not answer.stdout.strip():
        return finding("broken", f"nvidia-smi says: {said or f'nothing, exit code {answer.returncode}'}"), ()
    told = re.findall(r", ([1-9][0-9]?\.[0-9])\s*$", answer.stdout, flags=re.MULTILINE)
    return finding("ok", f"{said} (name, driver, compute capability)", fix=""), tuple(told)
