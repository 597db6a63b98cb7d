"""A stand-in for NVIDIA's driver library, so that what we say to ``cuda.bindings`` is tried without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.simt import require_compiler

__all__ = ["run_with_stand_in"]

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]


def run_with_stand_in(code: str, folder: Path) -> str:
    """Run Python in a process that finds the stand-in where it looks for ``libcuda.so.1``; return what it prints."""
    library = folder / "libcuda.so.1"
    source = str(_HERE / "libcuda.c")
    options = ["-x", "c", "-std=gnu11", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]  # the compiler may be a C++ one
    command = [require_compiler(), *options, "-o", str(library), source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    environment = dict(
        os.environ,
        LD_LIBRARY_PATH=str(folder),
        PYTHONPATH=os.pathsep.join([str(_ROOT / "src"), str(_ROOT / "tests")]),
        FRCNN_CACHE_DIR=str(folder / "cache"),
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
