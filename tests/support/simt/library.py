"""Kernels as shared libraries of the host: compile, once a process and constants, and load."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from frcnn.plugins.kernel import KERNEL_FOLDER, Kernel

__all__ = ["HostFunction", "host_function", "require_compiler"]

HostFunction = Callable[..., bytes]
_HERE = Path(__file__).parent
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wno-unknown-pragmas",
)
_SANITIZER = ("-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all")

_CALL = """
#include <tuple>
{macros}
#include "{source}"
#include "simt.cpp"

template <int I, class R, class... A>
auto argument(R (*)(A...)) -> std::tuple_element_t<I, std::tuple<A...>>;
static void* const* pointers;
static const int* integers;
static void call() {{
    {entry}({arguments});
}}
extern "C" const char* launch(void* const* p, const int* i, const unsigned* g, const unsigned* b, unsigned schedule) {{
    pointers = p;
    integers = i;
    return run(g, b, schedule, call);
}}
"""


@functools.cache
def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def require_compiler() -> str:
    """Return the host's C++ compiler, or skip the test."""
    compiler = _compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here (c++, g++ or clang++): the kernels cannot be run on the CPU")
    return compiler


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="frcnn-simt-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _sanitizer() -> tuple[str, ...]:
    """Return the flags that make undefined behaviour end the process, where the compiler has their library."""
    probe = _folder() / "probe.cpp"
    probe.write_text("int main() {}", encoding="utf-8")
    command = [require_compiler(), *_SANITIZER, "-o", str(_folder() / "probe"), str(probe)]
    return _SANITIZER if subprocess.run(command, capture_output=True, check=False).returncode == 0 else ()


def host_function(kernel: Kernel) -> HostFunction:
    """Return the kernel as a function of (pointers, integers, grid, block, schedule) that returns what went wrong."""
    return _built(_text_of(kernel))


def _text_of(kernel: Kernel) -> str:
    casts = [f"(decltype(argument<{{at}}>({kernel.entry})))pointers[{i}]" for i in range(len(kernel.inputs))]
    casts += [f"integers[{i}]" for i in range(len(kernel.integers))]
    first = len(kernel.inputs)
    casts += [f"(decltype(argument<{{at}}>({kernel.entry})))pointers[{first + i}]" for i in range(len(kernel.outputs))]
    return _CALL.format(
        macros="".join(f"#define {name} {value}\n" for name, value in kernel.macros().items()),
        source=(KERNEL_FOLDER / kernel.source).resolve(),
        entry=kernel.entry,
        arguments=", ".join(cast.replace("{at}", str(at)) for at, cast in enumerate(casts)),
    )


@functools.cache
def _built(text: str) -> HostFunction:
    compiler = require_compiler()
    stem = _folder() / f"kernel{_built.cache_info().misses}"
    stem.with_suffix(".cpp").write_text(text, encoding="utf-8")
    folders = ("-I", str(_HERE), "-I", str(KERNEL_FOLDER.resolve()), "-include", "simt.h")
    library = stem.with_suffix(".so")
    command = [compiler, *_FLAGS, *_sanitizer(), *folders, "-o", str(library), str(stem.with_suffix(".cpp"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{compiler} cannot compile this kernel for the host:\n{done.stderr}")
    function = ctypes.CDLL(str(library)).launch
    function.restype = ctypes.c_char_p
    return function  # type: ignore[no-any-return]
