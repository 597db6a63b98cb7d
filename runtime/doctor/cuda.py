"""What CUDA there is: the kernel compiler, the driver with its GPUs, and what TensorRT can do with them.

Nothing here makes a context or compiles, and nothing raises: a broken installation is what is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from frcnn.errors import MissingDependencyError
from frcnn.plugins.cuda.compiler import compiler_version, supported_architectures
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.cuda.driver import ask_driver
from frcnn.runtime.doctor.check import Check, Status
from frcnn.spec.engine import Target
from frcnn.spec.supported_gpus import other_ways, serves

__all__ = ["find_cuda_driver", "find_kernel_compiler", "with_abilities"]

_MAX_CHARACTERS: Final = 200
_INSTALL: Final = "pip install 'frcnn[cuda]'"
_DRIVER_FIX: Final = "NVIDIA's driver, r580 or later for CUDA 13 (nvidia.com/drivers), and a GPU that it sees"


class _CallError(Exception):
    """A call of the driver answered an error, named in the message."""


def find_kernel_compiler() -> Check:
    """Say whether kernels can be compiled here, which needs no GPU, and for which architectures."""

    def finding(status: Status, detail: str, fix: str = "") -> Check:
        return Check(name="NVRTC", status=status, purpose="compiling CUDA kernels", detail=detail, fix=fix)

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


def find_cuda_driver() -> tuple[Check, tuple[str, ...]]:
    """Say which CUDA the driver serves and which GPUs it sees; return that and their compute capabilities."""

    def finding(
        status: Status, detail: str, fix: str = "", capabilities: tuple[str, ...] = ()
    ) -> tuple[Check, tuple[str, ...]]:
        purpose = "CUDA kernels, TensorRT"
        return Check(name="CUDA driver", status=status, purpose=purpose, detail=detail, fix=fix), capabilities

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
    serves_cuda = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        gpus = _gpus()
    except Exception as error:
        status: Status = "missing" if "NO_DEVICE" in str(error) else "broken"
        detail = "sees no GPU" if status == "missing" else _line(error)
        return finding(status, f"{serves_cuda}, {detail}", _DRIVER_FIX)
    if not gpus:
        return finding("missing", f"{serves_cuda}, sees no GPU", _DRIVER_FIX)
    seen = "; ".join(f"{index} {name}, compute capability {number}" for index, (name, number) in enumerate(gpus))
    return finding("ok", f"{serves_cuda}: {seen}", capabilities=tuple(number for _name, number in gpus))


def with_abilities(package: Check, driver: Check, compiler: Check, gpus: Sequence[str]) -> Check:
    """Add to the finding of a TensorRT what it allows on this system: to build artifacts, to run them.

    Args:
        package: TensorRT or TensorRT-RTX.
        driver: whether CUDA sees a GPU.
        compiler: NVRTC.
        gpus: compute capabilities of the GPUs that are there.
    """
    target: Target = "tensorrt-rtx" if package.name == "tensorrt_rtx" else "tensorrt"
    unserved = tuple(dict.fromkeys(gpu for gpu in gpus if not serves(target, gpu)))
    not_here = f"it does not serve compute capability {', '.join(unserved)}"
    if package.status != "ok":
        if not unserved:
            return package
        fix = f"{other_ways(unserved[0])}; to build for other GPUs {package.fix}"
        return replace(package, detail=f"{package.detail}, {not_here}", fix=fix)
    has_gpu, can_compile = driver.status == "ok", compiler.status == "ok"
    if target == "tensorrt-rtx":
        builds = "builds artifacts here" if can_compile else "builds none here: no NVRTC"
    elif has_gpu and can_compile:
        builds = "builds artifacts here"
    else:
        builds = "builds none here: no GPU" if can_compile else "builds none here: no NVRTC"
    if unserved:
        runs = "runs none here:" if set(gpus) == set(unserved) else "runs them here, but"
        return replace(package, detail=f"{package.detail}, {builds}, {runs} {not_here}", fix=other_ways(unserved[0]))
    runs = "runs them here" if has_gpu else "runs none here: no GPU"
    return replace(package, detail=f"{package.detail}, {builds}, {runs}")


def _gpus() -> Sequence[tuple[str, str]]:
    """Return each GPU's name and compute capability, by number."""
    attributes = import_driver().CUdevice_attribute
    _ask("cuInit", 0)
    found = []
    for index in range(int(_ask("cuDeviceGetCount"))):
        device = _ask("cuDeviceGet", index)
        name = bytes(_ask("cuDeviceGetName", 256, device)).split(b"\0")[0].decode(errors="replace")
        major = _ask("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        minor = _ask("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        found.append((name, f"{major}.{minor}"))
    return found


def _ask(name: str, *arguments: Any) -> Any:
    status, results = ask_driver(name, *arguments)
    if status != "CUDA_SUCCESS":
        raise _CallError(f"{name} answered {status}")
    return results[0] if results else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_CHARACTERS] or type(error).__name__
