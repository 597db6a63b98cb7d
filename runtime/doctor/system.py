"""Checks of this system: packages, providers, GPUs. They import nothing heavy and never fail."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from frcnn.errors import one_line
from frcnn.packages import installed_version, is_installed
from frcnn.processors import available_cpus
from frcnn.runtime.dependencies import openvino_core
from frcnn.runtime.doctor.cuda import (
    Check,
    Status,
    find_cuda_driver,
    find_kernel_compiler,
    runs_here,
    with_abilities,
)

__all__ = ["Check", "Status", "can_detect", "look_around"]

_NVIDIA_SMI_SECONDS: Final = 15
_PRECISIONS: Final = {"FP32": "fp32", "BF16": "bf16", "INT8": "int8"}
_GPU_FIX: Final = "an NVIDIA GPU and its driver (nvidia.com/drivers); frcnn detects on the CPU without"


class _Package(NamedTuple):
    """A package: its module and the distributions that bring it are called as the check unless they are given."""

    name: str
    purpose: str
    extra: str
    module: str = ""
    distributions: tuple[str, ...] = ()
    essential: bool = False


_OPENCV: Final = tuple(f"opencv-{kind}python{end}" for end in ("-headless", "") for kind in ("", "contrib-"))
_BASE: Final = (
    _Package("numpy", "everything", "cpu", essential=True),
    _Package("pillow", "reading images", "cpu", module="PIL", essential=True),
    _Package("opencv", "videos", "cpu", module="cv2", distributions=_OPENCV),
    _Package("onnx", "export, inspect", "cpu"),
)
_EXPORT: Final = tuple(_Package(name, "export, compare", "export") for name in ("torch", "torchvision", "onnxscript"))
_BUILDS: Final = ("", "-cu13", "-cu12")
_TENSORRT: Final = (
    _Package("tensorrt", "TensorRT artifacts", "tensorrt", "", tuple(f"tensorrt{end}" for end in _BUILDS)),
    _Package(
        "tensorrt_lean",
        "version compatible TensorRT artifacts",
        "tensorrt-lean",
        "",
        tuple(f"tensorrt-lean{end}" for end in _BUILDS),
    ),
    _Package("tensorrt_rtx", "TensorRT-RTX artifacts", "rtx", "", tuple(f"tensorrt-rtx{end}" for end in _BUILDS)),
)
_MORE: Final = (
    _Package("cuda-bindings", "CUDA kernels, graphs", "rtx", "cuda.bindings", ("cuda-bindings", "cuda-python")),
    _Package("cuda-core", "CUDA kernels, graphs", "rtx", "cuda.core"),
    _Package("pycuda", "PyCUDA interface", "pycuda"),
    _Package("faster-coco-eval", "eval", "eval", "faster_coco_eval"),
    _Package("pandas", "Detections.to_dataframe", "pandas"),
    _Package("supervision", "Detections.to_supervision", "supervision"),
)


def look_around() -> list[Check]:
    """Return the checks of everything that frcnn can use, the most important first."""
    compiler = find_kernel_compiler()
    driver, seen = find_cuda_driver()
    gpu, listed = _nvidia_gpu()
    return [
        _system(),
        Check("python", "everything", "ok", platform.python_version(), essential=True),
        *map(_package, _BASE),
        _onnxruntime(),
        _openvino(),
        with_abilities(_onnxruntime_cuda(), driver, compiler, seen or listed),
        *map(_package, _EXPORT),
        *(with_abilities(_package(package), driver, compiler, seen or listed) for package in _TENSORRT),
        *map(_package, _MORE),
        compiler,
        driver,
        gpu,
        *runs_here(seen or listed),
    ]


def can_detect(checks: Sequence[Check]) -> bool:
    """Return whether ``frcnn detect`` works here."""
    return all(check.status == "ok" for check in checks if check.essential)


def _system() -> Check:
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    detail = f"{name}, {available_cpus()} of {os.cpu_count()} CPUs"
    return Check("system", "everything", "ok", detail)


def _package(package: _Package) -> Check:
    """Check for a package without importing it."""
    module = package.module or package.name
    version = next(filter(None, map(installed_version, package.distributions or (package.name,))), "")
    fix = f"pip install 'frcnn[{package.extra}]'"
    if is_installed(module):
        status: Status = "ok"
        detail, fix = version or "installed, version unknown", ""
    elif version:
        status, detail = "broken", f"{version} is installed, but there is no module {module}"
    else:
        status, detail = "missing", "not installed"
    return Check(package.name, package.purpose, status, detail, fix, package.essential)


def _onnxruntime_providers() -> tuple[list[str], str]:
    """Return ONNX Runtime's providers, or none and the reason."""
    try:
        module = importlib.import_module("onnxruntime")
        return list(module.get_available_providers()), ""
    except Exception as error:  # a broken installation may raise anything
        return [], one_line(error)


def _onnxruntime() -> Check:
    check = partial(Check, "onnxruntime", "detection", fix="pip install 'frcnn[cpu]'", essential=True)
    if not is_installed("onnxruntime"):
        return check("missing", "not installed")
    providers, problem = _onnxruntime_providers()
    version = installed_version("onnxruntime") or installed_version("onnxruntime-gpu") or "version unknown"
    if "CPUExecutionProvider" not in providers:
        return check("broken", f"{version} does not load: {problem or 'no CPU provider'}")
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return check("ok", f"{version}, providers: {names}", fix="")


def _openvino() -> Check:
    """Check for OpenVINO, and which precisions it computes in on this processor."""
    check = partial(Check, "openvino", "--provider openvino", fix="pip install 'frcnn[openvino]'")
    if not is_installed("openvino"):
        return check("missing", "not installed")
    version = installed_version("openvino") or "version unknown"
    try:
        with openvino_core() as core:
            can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            processor = core.get_property("CPU", "FULL_DEVICE_NAME")
    except Exception as error:  # a broken installation may raise anything
        return check("broken", f"{version} does not load: {one_line(error)}")
    names = ", ".join(name for key, name in _PRECISIONS.items() if key in can)
    return check("ok", f"{version}, on {processor}: {names}", fix="")


def _onnxruntime_cuda() -> Check:
    check = partial(Check, "onnxruntime-gpu", "detection on a GPU by ONNX Runtime")
    if "CUDAExecutionProvider" in _onnxruntime_providers()[0]:
        return check("ok", "CUDA provider present")
    fix = ("pip uninstall onnxruntime; " if installed_version("onnxruntime") else "") + "pip install 'frcnn[gpu]'"
    return check("missing", "no CUDA provider", fix)


def _nvidia_gpu() -> tuple[Check, tuple[str, ...]]:
    """Ask nvidia-smi, if there is one; also return the compute capabilities that it lists."""
    check = partial(Check, "NVIDIA GPU", "TensorRT, CUDA", fix=_GPU_FIX)
    program = shutil.which("nvidia-smi")
    if program is None:
        return check("missing", "no nvidia-smi"), ()
    query = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        return check("broken", f"nvidia-smi: {error}"), ()
    text = "; ".join(line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip())
    if done.returncode != 0 or not done.stdout.strip():
        return check("broken", f"nvidia-smi says: {text or f'nothing, exit code {done.returncode}'}"), ()
    capabilities = re.findall(r", ([1-9][0-9]?\.[0-9])\s*$", done.stdout, flags=re.MULTILINE)
    return check("ok", f"{text} (name, driver, compute capability)", fix=""), tuple(capabilities)
