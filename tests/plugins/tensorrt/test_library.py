"""Installations of TensorRT that are incomplete, mixed or for another CUDA."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from frcnn.errors import MissingDependencyError
from frcnn.plugins.tensorrt import library

MIXED = (
    "bindings and libraries must be of one release: LD_LIBRARY_PATH may name a folder with another TensorRT; "
    "pip install --force-reinstall 'frcnn[tensorrt]'"
)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``tensorrt`` in place of the installed one, if any."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "tensorrt.py"


@pytest.mark.parametrize(
    ("raised", "problem"),
    [
        # 11.2.1 without libnvinfer
        (
            "OSError('libnvinfer.so.11: cannot open shared object file: No such file or directory')",
            "libnvinfer.so.11: cannot open shared object file: No such file or directory",
        ),
        # bindings of 11.2.1 with the libraries of 10.6.0, or without the parser
        (
            "ImportError('libnvonnxparser.so.11: cannot open shared object file: No such file or directory')",
            "libnvonnxparser.so.11: cannot open shared object file: No such file or directory",
        ),
        # bindings of 11.2.1 with the lean library of 11.4.0 under the whole one's name
        (
            "ImportError('/tensorrt_bindings/tensorrt.so: undefined symbol: getBuilderPluginRegistry')",
            "/tensorrt_bindings/tensorrt.so: undefined symbol: getBuilderPluginRegistry",
        ),
        # the bindings alone
        (
            "ModuleNotFoundError(\"No module named 'tensorrt_bindings'\", name='tensorrt_bindings')",
            "No module named 'tensorrt_bindings'",
        ),
    ],
)
def test_a_tensorrt_that_does_not_load_tells_why(broken: Path, raised: str, problem: str) -> None:
    broken.write_text(f"raise {raised}\n", encoding="utf-8")
    with pytest.raises(MissingDependencyError) as caught:
        library.load_tensorrt()
    assert caught.value.message == (
        f"building a TensorRT engine needs the package 'tensorrt', which does not load: {problem}"
    )
    assert caught.value.hint == MIXED


def test_a_library_of_another_release_is_refused(tmp_path: Path) -> None:
    """As bindings of 11.4.0 with the libraries of 11.2.1, which are imported without a word."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("a C compiler is needed for a library that tells its release")
    source = tmp_path / "release.c"
    source.write_text("int getInferLibVersion(void) { return 770201; }\n", encoding="utf-8")
    made = tmp_path / "libnvinfer.so.77"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libnvinfer.so.77", source, "-o", made], check=True)
    trt = ModuleType("tensorrt")
    trt.__dict__["__version__"] = "77.4.0.106"
    library.refuse_mixed_releases(trt)  # none is loaded yet, and none is by asking
    library.ctypes.CDLL(str(made))
    with pytest.raises(MissingDependencyError) as caught:
        library.refuse_mixed_releases(trt, why="running a tensorrt artifact")
    assert caught.value.message == (
        "running a tensorrt artifact needs the package 'tensorrt', which has Python bindings of release 77.4.0 and "
        "libraries of release 77.2.1"
    )
    assert caught.value.hint == MIXED
    trt.__dict__["__version__"] = "77.2.1.post1"
    library.refuse_mixed_releases(trt)


@pytest.mark.parametrize(
    ("installed", "major"),
    [
        (["tensorrt_cu12_bindings"], 12),
        (["tensorrt_cu13_bindings"], 13),
        (["tensorrt_cu12_bindings", "tensorrt_cu13_bindings"], None),
        ([], None),
    ],
)
def test_the_cuda_of_tensorrt_is_read_off_its_packages(
    installed: list[str], major: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    assert library.cuda_major() == major
