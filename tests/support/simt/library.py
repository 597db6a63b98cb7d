"""Kernels as shared libraries of the host, compiled once for each set of constants."""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest

from frcnn.plugins.kernel import KERNEL_FOLDER, Kernel
from support.made_once import made_once

HostFunction = Callable[..., bytes]
_HERE = Path(__file__).parent.resolve()
_KERNELS = KERNEL_FOLDER.resolve()
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-U_FORTIFY_SOURCE",  # it takes a jump from fiber to fiber for a corrupt stack
)
_SANITIZER = ("-fsanitize=undefined,float-cast-overflow", "-fsanitize-recover=all")

_LAUNCH = """
{macros}
#include "{source}"

struct Pointer {{
    void* address;
    template <class T>
    operator T*() const {{ return static_cast<T*>(address); }}
}};
static void* const* pointers;
static const int* integers;
static void call() {{ {entry}({arguments}); }}

__attribute__((section("simt_shared"), used)) static char first_shared_byte;
extern "C" __attribute__((visibility("hidden"))) char __start_simt_shared[], __stop_simt_shared[];
extern "C" const char* simt_run(void (*)(), char*, char*, const unsigned*, const unsigned*, unsigned);
extern "C" const char* launch(void* const* p, const int* i, const unsigned* g, const unsigned* b, unsigned schedule) {{
    pointers = p;
    integers = i;
    return simt_run(call, __start_simt_shared, __stop_simt_shared, g, b, schedule);
}}
"""

_loaded: dict[str, HostFunction] = {}
_numbers = count()


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


def host_function(kernel: Kernel) -> HostFunction:
    """Return the kernel as a function of (pointers, integers, grid, block, schedule) that returns its failure."""
    text = _text_of(kernel)
    if text not in _loaded:
        # A copy of its own, because the sanitizer reports each place of a library that is loaded only once.
        library = shutil.copy(_built(text), _folder() / f"loaded{next(_numbers)}.so")
        _loaded[text] = ctypes.CDLL(str(library)).launch
        _loaded[text].restype = ctypes.c_char_p  # type: ignore[attr-defined]
    return _loaded[text]


def forget(kernel: Kernel) -> None:
    """Load the kernel anew for its next launch, so that it can fail again."""
    _loaded.pop(_text_of(kernel), None)


def _text_of(kernel: Kernel) -> str:
    first_output = len(kernel.inputs)
    arguments = [f"Pointer{{pointers[{i}]}}" for i in range(first_output)]
    arguments += [f"integers[{i}]" for i in range(len(kernel.integers))]
    arguments += [f"Pointer{{pointers[{first_output + i}]}}" for i in range(len(kernel.outputs))]
    return _LAUNCH.format(
        macros="".join(f"#define {name} {value}\n" for name, value in kernel.macros().items()),
        source=_KERNELS / kernel.source,
        entry=kernel.entry,
        arguments=", ".join(arguments),
    )


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="frcnn-simt-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _scheduler() -> str:
    """Return the library that every kernel's library is linked with."""
    return str(_compiled((_HERE / "simt.cpp").read_text(encoding="utf-8"), ["-O2"]))


@functools.cache
def _sanitizer() -> tuple[str, ...]:
    """Return the flags that report undefined behaviour, where the compiler has a library for them that loads."""
    probe = 'extern "C" int sum(int a, int b) { return a + b; }'
    try:
        ctypes.CDLL(str(_compiled(probe, [*_SANITIZER, _scheduler()])))
    except (OSError, RuntimeError):
        return ()
    return _SANITIZER


@functools.cache
def _built(text: str) -> Path:
    return _compiled(text, ["-I", str(_KERNELS), "-include", "simt.h", *_sanitizer(), _scheduler()])


def _compiled(text: str, options: Sequence[str]) -> Path:
    """Return the library of a source text, compiled once a run."""
    compiler = require_compiler()

    def make(folder: Path) -> None:
        source, library = folder / "source.cpp", folder / "library.so"
        source.write_text(text, encoding="utf-8")
        command = [compiler, *_FLAGS, "-I", str(_HERE), "-o", str(library), str(source), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{compiler} cannot compile this kernel for the host:\n{done.stderr}")

    digest = hashlib.sha256(repr((text, options)).encode()).hexdigest()
    return made_once(f"simt {digest}", make) / "library.so"
