"""A stand-in for NVIDIA's driver library, which runs calls of ``cuda.bindings`` without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from support.processes import run_python

__all__ = ["StandIn", "build_stand_in", "run_with_stand_in"]

_HERE = Path(__file__).parent


class StandIn:
    """Controls of the stand-in, in the process that uses it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.stand_in_log.restype = self._library.stand_in_live.restype = ctypes.c_char_p

    def take_log(self) -> list[str]:
        """Return the calls since the last time, each as its name and arguments."""
        lines: list[str] = self._library.stand_in_log().decode().splitlines()
        self._library.stand_in_clear()
        return lines

    def live(self) -> str:
        """Return the counts of resources that are not released."""
        return str(self._library.stand_in_live().decode())

    def fail(self, name: str, status: int, *, calls_before: int = 0) -> None:
        """Let a function fail once, after so many more calls."""
        self._library.stand_in_fail(name.encode(), status, calls_before)

    def set_devices(self, count: int) -> None:
        self._library.stand_in_devices(count)

    def set_memory(self, size_bytes: int) -> None:
        self._library.stand_in_memory(ctypes.c_size_t(size_bytes))

    def set_context(self, context: int, *, device: int = 0) -> None:
        """Make a context of this device current on this thread, as its owner would."""
        self._library.stand_in_context(ctypes.c_void_p(context))
        self._library.stand_in_device_of_context(device)


def build_stand_in(folder: Path) -> Path:
    """Compile the stand-in into a folder as ``libcuda.so.1``, where it is not there yet."""
    library = folder / "libcuda.so.1"
    if not library.exists():
        from support.simt import require_compiler  # imports torch, which the processes below do not need

        options = ["-std=gnu11", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        sources = [part for name in ("libcuda.c", "device.c") for part in ("-x", "c", str(_HERE / name))]
        command = [require_compiler(), *options, "-o", str(library), *sources]  # it may be a C++ compiler
        subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def run_with_stand_in(code: str, folder: Path) -> str:
    """Return the output of Python code in a process that loads the stand-in as ``libcuda.so.1``."""
    build_stand_in(folder)
    return run_python(code, LD_LIBRARY_PATH=str(folder), FRCNN_CACHE_DIR=str(folder / "cache"))
