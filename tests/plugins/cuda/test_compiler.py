"""Compilation with NVRTC, and the cache of compiled kernels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from cuda.core.utils import FileStreamProgramCache
from support.processes import environment, run_python

from frcnn.errors import KernelError, MissingDependencyError
from frcnn.plugins.cuda import compiler
from frcnn.plugins.cuda.compiler import (
    OLDEST_PTX,
    compile_kernel,
    compiler_version,
    supported_architectures,
)
from frcnn.plugins.cuda.kernel_cache import KernelCache, default_cache
from frcnn.plugins.preprocess import kernels

(KERNEL,) = kernels(image_mean=(0, 0, 0), image_std=(1, 1, 1))
NO_CACHE = KernelCache(None)


@pytest.fixture
def cache(tmp_path):
    return KernelCache(tmp_path / "cache" / "kernels")


@pytest.fixture
def compilations(monkeypatch):
    """The compilations that were not served by the cache."""
    done = []
    real = compiler.compile_anew
    monkeypatch.setattr(compiler, "compile_anew", lambda *arguments: done.append(arguments[:2]) or real(*arguments))
    return done


def is_cubin(code: bytes) -> bool:
    return code.startswith(b"\x7fELF")


def files_in(cache: KernelCache) -> list[Path]:
    return [path for path in cache.folder.rglob("*") if path.is_file()]


def test_code_is_machine_code_or_ptx_by_its_architecture():
    compiled = {name: compile_kernel(KERNEL, name, cache=NO_CACHE) for name in ("sm_80", "sm_90", OLDEST_PTX)}
    assert [is_cubin(code) for code in compiled.values()] == [True, True, False]
    assert all(b"preprocess" in code for code in compiled.values())
    ptx = compiled[OLDEST_PTX]
    assert b".target sm_75" in ptx and b".visible .entry preprocess(" in ptx and ptx.endswith(b"\0")


def test_every_supported_gpu_has_an_architecture():
    wanted = {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"}
    assert wanted <= set(supported_architectures())


def test_constants_architecture_and_source_are_part_of_the_key(cache, compilations, tmp_path):
    first = compile_kernel(KERNEL, "sm_90", cache=cache)
    assert compile_kernel(KERNEL, "sm_90", cache=cache) == first
    assert len(compilations) == 1
    compile_kernel(KERNEL, "sm_80", cache=cache)
    compile_kernel(replace(KERNEL, constants={**KERNEL.constants, "COLUMNS_PER_THREAD": 2}), "sm_90", cache=cache)
    source = tmp_path / "own.cu"
    text = (compiler.KERNEL_FOLDER / KERNEL.source).read_text(encoding="utf-8")
    source.write_text(text, encoding="utf-8")
    own = replace(KERNEL, source=str(source))
    compile_kernel(own, "sm_90", cache=cache)  # the same text from another file is the same kernel
    assert len(compilations) == 3
    source.write_text(f"{text}// another", encoding="utf-8")
    compile_kernel(own, "sm_90", cache=cache)
    assert len(compilations) == 4


def test_headers_compiler_and_schema_are_part_of_the_key(monkeypatch):
    key = compiler._key(KERNEL, "sm_90", (13, 0))
    assert compiler._key(KERNEL, "sm_90", (13, 1)) != key
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_headers", lambda: {"cuda/element.cuh": "other"})
        assert compiler._key(KERNEL, "sm_90", (13, 0)) != key
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_SCHEMA", "frcnn kernel 2")
        assert compiler._key(KERNEL, "sm_90", (13, 0)) != key
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_OPTIONS", ("--fmad=true",))
        assert compiler._key(KERNEL, "sm_90", (13, 0)) != key
    assert compiler._key(KERNEL, "sm_90", (13, 0)) == key


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "other"])
def test_a_damaged_entry_is_compiled_anew_and_replaced(cache, compilations, damage):
    good = compile_kernel(KERNEL, "sm_90", cache=cache)
    (entry,) = files_in(cache)
    stored = entry.read_bytes()
    damaged = {
        "flipped": stored[:500] + bytes([stored[500] ^ 1]) + stored[501:],
        "truncated": stored[:-100],
        "empty": b"",
        "other": b"something else entirely" * 10,
    }[damage]
    entry.write_bytes(damaged)
    assert compile_kernel(KERNEL, "sm_90", cache=cache) == good
    assert len(compilations) == 2
    assert entry.read_bytes() == stored
    assert compile_kernel(KERNEL, "sm_90", cache=cache) == good
    assert len(compilations) == 2


def assert_compiled_twice(cache, compilations, caplog, *reasons, hint="FRCNN_CACHE_DIR names another folder"):
    """A cache that keeps nothing costs time only, and warns once."""
    first, second = (compile_kernel(KERNEL, "sm_90", cache=cache) for _ in range(2))
    assert first == second
    assert len(compilations) == 2
    assert caplog.messages == [
        f"frcnn: nothing is kept in the cache {cache.folder}: {reason}; {hint}" for reason in reasons
    ]


REASONS = {
    "a file": "File exists",
    "below a file": "Not a directory",
    "/proc/frcnn/kernels": "No such file or directory",
}


@pytest.mark.parametrize("folder", REASONS)
def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, compilations, caplog, folder):
    file = tmp_path / "file"
    file.write_text("not a folder", encoding="utf-8")
    places = {"a file": file, "below a file": file / "kernels"}
    cache = KernelCache(places.get(folder, Path(folder)))
    assert_compiled_twice(cache, compilations, caplog, REASONS[folder])
    assert file.read_text(encoding="utf-8") == "not a folder"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [OSError("a fault"), RuntimeError("a fault"), DeprecationWarning("a fault")])
@pytest.mark.parametrize("call", ["__init__", "__getitem__", "__setitem__"])
def test_a_cache_that_fails_in_any_way_only_costs_time(cache, compilations, caplog, monkeypatch, call, fault):
    def fail(*arguments, **options):
        raise fault

    cache.folder.mkdir(parents=True)
    monkeypatch.setattr(FileStreamProgramCache, call, fail)
    reason = "a fault" if isinstance(fault, OSError) else f"{type(fault).__name__}: a fault"
    # what cannot be read is written anew
    assert_compiled_twice(cache, compilations, caplog, *([] if call == "__getitem__" else [reason]))


@pytest.mark.parametrize("version", ["none", "0.7"])
def test_without_a_cache_of_cuda_core_kernels_are_compiled_and_not_kept(
    cache, compilations, caplog, monkeypatch, version
):
    monkeypatch.setitem(sys.modules, "cuda.core.utils", None if version == "none" else ModuleType("cuda.core.utils"))
    cache.folder.mkdir(parents=True)
    reason = "keeping compiled kernels needs the package 'cuda-core>=1', which is not installed"
    assert_compiled_twice(cache, compilations, caplog, reason, hint="pip install 'frcnn[cuda]'")


FILL = """
import sys
from pathlib import Path
from frcnn.plugins.cuda.compiler import compile_kernel
from frcnn.plugins.cuda.kernel_cache import KernelCache
from frcnn.plugins.preprocess import kernels
(kernel,) = kernels(image_mean=(0, 0, 0), image_std=(1, 1, 1))
for _ in range(4):
    compiled = compile_kernel(kernel, "sm_90", cache=KernelCache(Path(sys.argv[1])))
    print(len(compiled))
"""


@pytest.mark.slow
def test_many_processes_may_share_a_cache(cache):
    cache.folder.mkdir(parents=True)
    command = [sys.executable, "-c", FILL, str(cache.folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) for _ in range(4)]
    sizes = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert sizes == [sizes[0][:1] * 4] * 4
    assert len(files_in(cache)) == 1
    assert cache.read(compiler._key(KERNEL, "sm_90", compiler_version())) is not None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FRCNN_CACHE_DIR": "/a"}, Path("/a/kernels")),
        ({"FRCNN_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a/kernels")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/frcnn/kernels")),
        ({"HOME": "/c"}, Path("/c/.cache/frcnn/kernels")),
    ],
)
def test_the_cache_is_in_the_folder_of_the_environment(monkeypatch, variables, expected):
    for name in ("FRCNN_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_cache().folder == expected


def test_without_a_home_nothing_is_kept(monkeypatch):
    for name in ("FRCNN_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert default_cache() == KernelCache(None)
    assert is_cubin(compile_kernel(KERNEL, "sm_90"))


@pytest.mark.parametrize("architecture", ["sm_30", "sm_999", "compute_20", "90", "sm_90; rm -rf /", ""])
def test_an_architecture_that_nvrtc_does_not_know_is_refused(architecture):
    with pytest.raises(KernelError, match=r"does not know the architecture .*, only sm_75, .*sm_90") as raised:
        compile_kernel(KERNEL, architecture, cache=NO_CACHE)
    assert OLDEST_PTX in raised.value.hint


def test_an_error_is_one_line_and_the_log_a_note(tmp_path):
    source = tmp_path / "broken.cu"
    source.write_text('extern "C" __global__ void preprocess() { undeclared = 1; }\n', encoding="utf-8")
    with pytest.raises(KernelError) as raised:
        compile_kernel(replace(KERNEL, source=str(source)), "sm_90", cache=NO_CACHE)
    assert "\n" not in raised.value.message
    assert raised.value.message.startswith(f"preprocess ({source}) does not compile for sm_90: ")
    assert 'identifier "undeclared" is undefined' in raised.value.message
    (log,) = raised.value.__notes__
    assert "1 error detected" in log


def test_a_missing_source_is_reported():
    with pytest.raises(KernelError, match=r"nowhere\.cu cannot be read"):
        compile_kernel(replace(KERNEL, source="nowhere.cu"), "sm_90", cache=NO_CACHE)


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(MissingDependencyError) as raised:
        compile_kernel(KERNEL, "sm_90", cache=KernelCache(tmp_path))
    assert raised.value.package == "cuda-bindings"
    assert raised.value.hint == "pip install 'frcnn[cuda]'"


def test_a_missing_library_names_its_wheel():
    """In a process of its own, in which cuda-pathfinder finds no library."""
    code = """
import cuda.pathfinder
from cuda.bindings import nvrtc
from frcnn.plugins.cuda import dependencies
def none_found():
    raise RuntimeError("Failure finding libnvrtc.so")
nvrtc.nvrtcVersion = none_found
from frcnn.errors import MissingDependencyError
from frcnn.plugins.cuda.compiler import compiler_version
try:
    compiler_version()
except MissingDependencyError as error:
    print(error.package, error.hint)
"""
    assert run_python(code).split(maxsplit=1) == ["nvidia-cuda-nvrtc", "pip install 'frcnn[cuda]'\n"]
