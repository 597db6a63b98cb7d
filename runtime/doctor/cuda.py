"""Checks of CUDA: the compiler, the driver, the GPUs, and what they allow engines to do. None of them ever fails.

The driver is asked directly, not through the runtime's own GPU code: a broken installation is what these look for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from frcnn.errors import MissingDependencyError, one_line
from frcnn.plugins.cuda.compiler import compiler_version, supported_architectures
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.cuda.driver import ask_driver, compute_capability
from frcnn.spec.engine import Target
from frcnn.spec.gpu_runs import read_runs, runs_on_generation
from frcnn.spec.supported_gpus import other_ways, serves

Status = Literal["ok", "missing", "broken"]

_TARGETS: Final[Mapping[str, Target]] = {
    "tensorrt_rtx": "tensorrt-rtx",
    "tensorrt": "tensorrt",
    "tensorrt_lean": "tensorrt",
    "onnxruntime-gpu": "onnxruntime",
}
"""By the name of its check."""

_INSTALL: Final = "pip install 'frcnn[cuda]'"
_DRIVER_FIX: Final = "NVIDIA's driver, r580 or later for CUDA 13 (nvidia.com/drivers), and a GPU that it sees"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that frcnn can use, and what for.

    Attributes:
        status: ``ok``, ``missing``, or ``broken``: installed but not usable.
        detail: its version, or what is wrong.
        fix: how to install it, or an alternative; empty if nothing is missing.
        essential: whether detection needs it.
    """

    name: str
    purpose: str
    status: Status
    detail: str
    fix: str = ""
    essential: bool = False


class _CallError(Exception):
    """A call of the driver failed; the message names the status."""


def find_kernel_compiler() -> Check:
    """Check whether kernels can be compiled here, which needs no GPU, and for which architectures."""
    check = partial(Check, "NVRTC", "compiling CUDA kernels")
    try:
        version, architectures = compiler_version(), supported_architectures()
    except MissingDependencyError as error:
        return check("missing", f"{error.package} is not installed", _INSTALL)
    except Exception as error:  # a broken installation may raise anything
        return check("broken", one_line(error), _INSTALL)
    if not architectures:
        return check("broken", "it knows no architecture", _INSTALL)
    known = f"{architectures[0]} to {architectures[-1]}"
    return check("ok", f"{version[0]}.{version[1]}, compiles here without a GPU, {known} and PTX")


def find_cuda_driver() -> tuple[Check, tuple[str, ...]]:
    """Check which CUDA the driver serves and which GPUs it sees; also return their compute capabilities."""
    check = partial(Check, "CUDA driver", "CUDA kernels, TensorRT", fix=_DRIVER_FIX)
    try:
        import_driver()
    except MissingDependencyError:
        return check("missing", "cuda-bindings, which asks it, is not installed", fix=_INSTALL), ()
    except Exception as error:
        return check("broken", one_line(error), fix=_INSTALL), ()
    try:
        number = int(_ask("cuDriverGetVersion"))
    except _CallError as error:
        return check("broken", one_line(error)), ()
    except Exception:  # there is no libcuda, or it is not one
        return check("missing", "no driver"), ()
    version = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        gpus = _gpus()
    except Exception as error:
        if "NO_DEVICE" not in str(error):
            return check("broken", f"{version}, {one_line(error)}"), ()
        gpus = ()
    if not gpus:
        return check("missing", f"{version}, sees no GPU"), ()
    seen = "; ".join(f"{index} {name}, compute capability {number}" for index, (name, number) in enumerate(gpus))
    return check("ok", f"{version}: {seen}", fix=""), tuple(number for _name, number in gpus)


def with_abilities(package: Check, driver: Check, compiler: Check, gpus: Sequence[str]) -> Check:
    """Add to the check of what runs engines whether it can build artifacts here and run them on the GPUs here."""
    target = _TARGETS[package.name]
    unserved = tuple(dict.fromkeys(gpu for gpu in gpus if not serves(target, gpu)))
    not_here = f"it does not serve compute capability {', '.join(unserved)}"
    if package.status != "ok":
        if not unserved:
            return package
        fix = f"{other_ways(unserved[0])}; to build for other GPUs {package.fix}"
        return replace(package, detail=f"{package.detail}, {not_here}", fix=fix)
    has_gpu, can_compile = driver.status == "ok", compiler.status == "ok"
    is_lean = package.name == "tensorrt_lean"
    if is_lean:
        builds = "builds none: it has no builder"
    elif can_compile and (has_gpu or target != "tensorrt"):
        builds = "builds artifacts here"
    else:
        builds = "builds none here: no GPU" if can_compile else "builds none here: no NVRTC"
    if unserved:
        runs = "runs none here:" if set(gpus) == set(unserved) else "runs them here, but"
        return replace(package, detail=f"{package.detail}, {builds}, {runs} {not_here}", fix=other_ways(unserved[0]))
    runs = f"runs {'those of its own release' if is_lean else 'them'} here" if has_gpu else "runs none here: no GPU"
    return replace(package, detail=f"{package.detail}, {builds}, {runs}")


def runs_here(gpus: Sequence[str]) -> list[Check]:
    """Return which artifacts have run on GPUs of the generations here; nothing where there is none."""
    details = dict.fromkeys(runs_on_generation(read_runs(), gpu) for gpu in gpus)
    return [Check(name="GPU runs", status="ok", purpose="artifacts", detail=detail) for detail in details]


def _gpus() -> Sequence[tuple[str, str]]:
    """Return each GPU's name and compute capability, by number."""
    _ask("cuInit", 0)
    found = []
    for index in range(int(_ask("cuDeviceGetCount"))):
        device = _ask("cuDeviceGet", index)
        name = bytes(_ask("cuDeviceGetName", 256, device)).split(b"\0")[0].decode(errors="replace")
        found.append((name, compute_capability(_ask, device)))
    return found


def _ask(name: str, *arguments: Any) -> Any:
    status, results = ask_driver(name, *arguments)
    if status != "CUDA_SUCCESS":
        raise _CallError(f"{name} returned {status}")
    return results[0] if results else None
