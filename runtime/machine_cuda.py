"""What CUDA there is: the kernel compiler, the driver with its GPUs, and what TensorRT can do with them.

Nothing here makes a context or compiles, and nothing raises: a broken installation is what is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from frcnn.errors import MissingDependencyError
from frcnn.plugins.compiler import compiler_version, supported_architectures
from frcnn.plugins.dependencies import import_driver
from frcnn.plugins.driver import ask_driver
from frcnn.runtime.finding import Finding, Status

__all__ = ["find_cuda_driver", "find_kernel_compiler", "with_abilities"]

_MOST_CHARACTERS: Final = 200
_INSTALL: Final = "pip install 'frcnn[cuda]'"
_DRIVER_FIX: Final = "NVIDIA's driver, r580 or later for CUDA 13 (nvidia.com/drivers), and a GPU that it sees"


class _CallError(Exception):
    """A call of the driver answered an error, named in the message."""


def find_kernel_compiler() -> Finding:
    """Say whether kernels can be compiled here, which needs no GPU, and for which architectures."""

    def finding(status: Status, detail: str, fix: str = "") -> Finding:
        return Finding(name="NVRTC", status=status, purpose="compiling CUDA kernels", detail=detail, fix=fix)

    try:
        version, architectures = compiler_version(), supported_architectures()
    except MissingDependencyError as error:
        return finding("missing", f"{error.package} is not installed", _INSTALL)
    except Exception as error:  # a broken installation may raise anything
        return finding("broken", _line(error), _INSTALL)
    if not architectures:
        return finding("broken", "it knows no architecture", _INSTALL)
    known = f"{architectures[0]} to {architectures[-1]}"
    return finding("ok", f"{version[0]}.{version[1]}, compiles here without a GPU, {known} and PTX")


def find_cuda_driver() -> Finding:
    """Say which CUDA the driver serves and which GPUs it sees."""

    def finding(status: Status, detail: str, fix: str = "") -> Finding:
        return Finding(name="CUDA driver", status=status, purpose="CUDA kernels, TensorRT", detail=detail, fix=fix)

    try:
        import_driver()
    except MissingDependencyError:
        return finding("missing", "cuda-bindings, which asks it, is not installed", _INSTALL)
    except Exception as error:
        return finding("broken", _line(error), _INSTALL)
    try:
        number = int(_ask("cuDriverGetVersion"))
    except _CallError as error:
        return finding("broken", _line(error), _DRIVER_FIX)
    except Exception:  # there is no libcuda, or it is not one
        return finding("missing", "no driver", _DRIVER_FIX)
    serves = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        gpus = _gpus()
    except Exception as error:
        status: Status = "missing" if "NO_DEVICE" in str(error) else "broken"
        detail = "sees no GPU" if status == "missing" else _line(error)
        return finding(status, f"{serves}, {detail}", _DRIVER_FIX)
    if not gpus:
        return finding("missing", f"{serves}, sees no GPU", _DRIVER_FIX)
    return finding("ok", f"{serves}: {'; '.join(gpus)}")


def with_abilities(package: Finding, driver: Finding, compiler: Finding) -> Finding:
    """Add to the finding of a TensorRT what it allows on this machine: to build artifacts, to run them."""
    if package.status != "ok":
        return package
    has_gpu, can_compile = driver.status == "ok", compiler.status == "ok"
    if package.name == "tensorrt_rtx":
        builds = "builds artifacts here" if can_compile else "builds none here: no NVRTC"
    elif has_gpu and can_compile:
        builds = "builds artifacts here"
    else:
        builds = "builds none here: no GPU" if can_compile else "builds none here: no NVRTC"
    runs = "runs them here" if has_gpu else "runs none here: no GPU"
    return replace(package, detail=f"{package.detail}, {builds}, {runs}")


def _gpus() -> Sequence[str]:
    """Return each GPU's number, name and compute capability."""
    attributes = import_driver().CUdevice_attribute
    _ask("cuInit", 0)
    found = []
    for index in range(int(_ask("cuDeviceGetCount"))):
        device = _ask("cuDeviceGet", index)
        name = bytes(_ask("cuDeviceGetName", 256, device)).split(b"\0")[0].decode(errors="replace")
        major = _ask("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        minor = _ask("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        found.append(f"{index} {name}, compute capability {major}.{minor}")
    return found


def _ask(name: str, *arguments: Any) -> Any:
    status, results = ask_driver(name, *arguments)
    if status != "CUDA_SUCCESS":
        raise _CallError(f"{name} answered {status}")
    return results[0] if results else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MOST_CHARACTERS] or type(error).__name__
