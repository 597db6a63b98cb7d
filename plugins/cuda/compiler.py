"""Compile kernels with NVRTC: cubins for known architectures, PTX for later ones.

No GPU, driver or CUDA toolkit is needed: NVRTC comes as a wheel (``frcnn[cuda]``), and the kernels include our own
headers only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache as memoised
from pathlib import Path
from typing import Any, Final

from frcnn.errors import KernelError, one_line
from frcnn.plugins.cuda.dependencies import import_nvrtc
from frcnn.plugins.cuda.kernel_cache import KernelCache, default_cache
from frcnn.plugins.kernel import KERNEL_FOLDER, Kernel

OLDEST_PTX: Final = "compute_75"
"""The PTX architecture: the driver of every supported GPU can compile it."""

_SCHEMA: Final = "frcnn kernel 1"  # changes when the key or the value of the cache changes its meaning
# Decisions must not depend on contraction: kernels write fmaf where they want it.
_OPTIONS: Final = ("--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false")


def compiler_version() -> tuple[int, int]:
    """Return the CUDA release of NVRTC as (major, minor), or raise MissingDependencyError."""
    _status, major, minor = import_nvrtc().nvrtcVersion()
    return int(major), int(minor)


def supported_architectures() -> tuple[str, ...]:
    """Return the architectures that NVRTC compiles cubins for, oldest first, as ``sm_NN``."""
    _status, numbers = import_nvrtc().nvrtcGetSupportedArchs()
    return tuple(f"sm_{number}" for number in sorted(numbers))


def compile_kernel(kernel: Kernel, architecture: str, *, cache: KernelCache | None = None) -> bytes:
    """Return a kernel's code, compiled or from the cache, by default the user's.

    ``sm_NN`` gives a cubin (ELF), ``compute_NN`` PTX text that ends in a 0 byte. Raises KernelError, with the log as a
    note, where NVRTC reports an error or does not know the architecture, and MissingDependencyError without NVRTC.
    """
    store = default_cache() if cache is None else cache
    key = _key(kernel, architecture, compiler_version())
    code = store.read(key)
    if code is None:
        code, _log = compile_anew(kernel, architecture)
        store.write(key, code)
    return code


def compile_anew(kernel: Kernel, architecture: str, *more: str) -> tuple[bytes, str]:
    """Return a kernel's code and the compiler's log, with more options; see :func:`compile_kernel`."""
    _check_architecture(architecture)
    nvrtc = import_nvrtc()
    path, source = _source_of(kernel)
    folder = KERNEL_FOLDER.resolve()
    options = [*_options(kernel, architecture), f"--include-path={folder}", f"--include-path={path.parent}", *more]
    _status, program = nvrtc.nvrtcCreateProgram(source, kernel.source.encode(), 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _bytes_of(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).rstrip(b"\0\n").decode()
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise _failure(kernel, architecture, log or status.name)
        if architecture.startswith("compute_"):
            return _bytes_of(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program), log
        return _bytes_of(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def fingerprint(kernel: Kernel) -> str:
    """Return a hash of a kernel's source, headers, constants and options, as 16 hexadecimal digits.

    Kernels with equal fingerprints may launch each other's code. No compiler is needed.
    """
    return _key(kernel, "", (0, 0)).hex()[:16]


def _check_architecture(architecture: str) -> None:
    known = supported_architectures()
    also_ptx = (name.replace("sm_", "compute_") for name in known)
    if architecture not in (*known, *also_ptx):
        version = ".".join(map(str, compiler_version()))
        raise KernelError(
            f"NVRTC {version} does not know the architecture {architecture!r}, only {', '.join(known)}"
            " (and compute_NN for PTX)",
            hint="a newer NVRTC knows newer ones; for a GPU that is newer still, take PTX: " + OLDEST_PTX,
        )


def _source_of(kernel: Kernel) -> tuple[Path, bytes]:
    path = (KERNEL_FOLDER / kernel.source).resolve()
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise KernelError(
            f"{kernel.entry}: {path} cannot be read: {one_line(error)}", hint="reinstall frcnn"
        ) from error


@memoised
def _headers() -> Mapping[str, str]:
    folder = KERNEL_FOLDER.resolve()
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.cuh"))
    }


def _options(kernel: Kernel, architecture: str) -> list[str]:
    macros = [f"--define-macro={name}={value}" for name, value in kernel.macros().items()]
    return [f"--gpu-architecture={architecture}", *_OPTIONS, *macros]


def _key(kernel: Kernel, architecture: str, version: tuple[int, int]) -> bytes:
    _path, source = _source_of(kernel)
    parts = [_SCHEMA, repr(version), *_options(kernel, architecture), repr(sorted(_headers().items()))]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + source).digest()


def _bytes_of(size_of: Any, fill: Any, program: Any) -> bytes:
    _status, size = size_of(program)
    buffer = bytearray(size)
    fill(program, buffer)
    return bytes(buffer)


def _failure(kernel: Kernel, architecture: str, log: str) -> KernelError:
    lines = log.strip().splitlines()
    first = next((line for line in lines if "error" in line), lines[0]).strip()
    error = KernelError(
        f"{kernel.entry} ({kernel.source}) does not compile for {architecture}: {first}",
        hint="the compiler's log follows the traceback of --debug",
    )
    error.add_note(log)
    return error
