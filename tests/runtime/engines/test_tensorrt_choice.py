"""Which TensorRT runs an artifact: the whole one or the lean runtime, of the release that built it."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import fake_tensorrt
from support.engine_files import write_engine_file
from support.processes import run_python

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime.engines import compatibility
from frcnn.runtime.engines.compatibility import check_runs_here, choose_tensorrt
from frcnn.runtime.model_files.engine_artifact import EngineArtifact, open_engine_artifact

BUILT, OTHER = "11.2.1.2", "11.4.0.106"
INSTALL = f"pip install 'tensorrt-lean-cu13=={BUILT}'"


@pytest.fixture
def artifact_of(tmp_path: Path) -> Callable[..., EngineArtifact]:
    def make(**changes: Any) -> EngineArtifact:
        changes = {"target": "tensorrt", "target_version": BUILT, "version_compatible": True} | changes
        return open_engine_artifact(write_engine_file(tmp_path / "model.frcnn", **changes))

    return make


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make libraries of these releases the only ones; a release of None is one that does not load."""

    def given(**versions: str | None) -> None:
        def load(library: str) -> Any:
            version = versions.get(library.replace("-", "_"))
            if version is None:
                raise MissingDependencyError(library, extra=library, why="running an artifact")
            return SimpleNamespace(__version__=version)

        monkeypatch.setattr(compatibility, "import_tensorrt", load)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in versions else None)

    return given


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"tensorrt": BUILT}, "tensorrt"),
        ({"tensorrt": BUILT, "tensorrt_lean": BUILT}, "tensorrt"),
        ({"tensorrt": OTHER, "tensorrt_lean": BUILT}, "tensorrt-lean"),
        ({"tensorrt": None, "tensorrt_lean": BUILT}, "tensorrt-lean"),
        ({"tensorrt_lean": BUILT}, "tensorrt-lean"),
    ],
)
def test_version_compatible_engines_run_in_what_is_there_of_their_release(
    artifact_of: Any, install: Any, installed: dict[str, str | None], chosen: str
) -> None:
    install(**installed)
    library, module = choose_tensorrt(artifact_of())
    assert (library, module.__version__) == (chosen, BUILT)


@pytest.mark.parametrize("version_compatible", [True, False])
def test_a_tensorrt_of_another_release_is_refused_with_the_package_that_helps(
    artifact_of: Any, install: Any, version_compatible: bool
) -> None:
    install(tensorrt=OTHER, tensorrt_lean=OTHER)
    artifact = artifact_of(version_compatible=version_compatible)
    library, module = choose_tensorrt(artifact)
    assert library == "tensorrt"
    system: dict[str, Any] = {"compute_capability": "8.9", "driver_cuda_version": "13.0", "free_bytes": 1 << 30}
    with pytest.raises(ArtifactError, match=rf"for TensorRT {BUILT} and run on no other version, here is") as caught:
        check_runs_here(artifact, target_version=module.__version__, **system)
    package = f"its lean runtime beside this one: {INSTALL}"
    assert caught.value.hint.endswith(
        package if version_compatible else f"that version: pip install 'tensorrt-cu13=={BUILT}'"
    )


def test_a_lean_runtime_alone_refuses_engines_that_are_not_version_compatible(artifact_of: Any, install: Any) -> None:
    install(tensorrt_lean=BUILT)
    with pytest.raises(ArtifactError, match=r"lean runtime.*runs version compatible engines only") as caught:
        choose_tensorrt(artifact_of(version_compatible=False))
    assert " --version-compatible, or install TensorRT: pip install 'tensorrt-cu13==11.2.1.2'" in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_lean_runtime_of_another_release_is_refused(artifact_of: Any, install: Any) -> None:
    install(tensorrt_lean=OTHER)
    with pytest.raises(
        ArtifactError, match=f"lean runtime of TensorRT {BUILT} only, here is that of {OTHER}"
    ) as caught:
        choose_tensorrt(artifact_of())
    assert caught.value.hint.startswith(INSTALL)


@pytest.mark.parametrize(
    ("installed", "version_compatible", "package", "hint"),
    [
        ({}, True, "tensorrt-lean", INSTALL),
        ({}, False, "tensorrt", "pip install 'frcnn[tensorrt]'"),
        ({"tensorrt": None}, True, "tensorrt", "pip install 'frcnn[tensorrt]'"),  # is there, but broken
        ({"tensorrt": None, "tensorrt_lean": BUILT}, False, "tensorrt", "pip install 'frcnn[tensorrt]'"),
    ],
)
def test_what_is_missing_is_named(
    artifact_of: Any, install: Any, installed: Any, version_compatible: bool, package: str, hint: str
) -> None:
    install(**installed)
    with pytest.raises(MissingDependencyError) as caught:
        choose_tensorrt(artifact_of(version_compatible=version_compatible))
    assert (caught.value.package, caught.value.hint) == (package, hint)


@pytest.mark.parametrize(
    ("built", "package"),
    [
        ("10.6.0", "tensorrt-lean-cu12==10.6.0"),
        ("10.13.0.35", "tensorrt-lean-cu12==10.13.0.35"),
        ("10.13.2.6", "tensorrt-lean-cu13==10.13.2.6"),
        ("11.4.0.106", "tensorrt-lean-cu13==11.4.0.106"),
    ],
)
def test_older_releases_have_packages_for_cuda_12_only(
    artifact_of: Any, install: Any, built: str, package: str
) -> None:
    install()
    with pytest.raises(MissingDependencyError) as caught:
        choose_tensorrt(artifact_of(target_version=built))
    assert caught.value.hint == f"pip install '{package}'"


# ---- NVIDIA's own libraries, where they are installed

with_lean = pytest.mark.skipif(find_spec("tensorrt_lean") is None, reason="tensorrt_lean is not installed")


@with_lean
def test_the_lean_runtime_has_what_engines_are_asked_for() -> None:
    """Every name of the fake but those of the builder's inspector, and no ``TensorFormat``."""
    names = {
        kind: [name for name in vars(getattr(fake_tensorrt, kind)) if not name.startswith("_") and name != "cache"]
        for kind in ("Runtime", "ICudaEngine", "IExecutionContext", "IProfiler", "ILogger")
    }
    code = f"""
import tensorrt_lean as trt
names = {names}
print([f"{{kind}}.{{name}}" for kind in names for name in names[kind] if not hasattr(getattr(trt, kind), name)])
print([hasattr(trt, name) for name in ("TensorFormat", "CudaGraphStrategy", "EngineValidity")])
print(list(trt.TensorIOMode.__members__), trt.TensorLocation.DEVICE.name, trt.DataType.HALF.name)
print(trt.ExecutionContextAllocationStrategy.USER_MANAGED.name, trt.ILogger.INTERNAL_ERROR.name)
"""
    printed = run_python(code, PYTHONWARNINGS="error", PYTHONPATH=os.pathsep.join(sys.path))
    assert printed.splitlines() == [
        "[]",
        "[False, False, False]",
        "['NONE', 'INPUT', 'OUTPUT'] DEVICE HALF",
        "USER_MANAGED INTERNAL_ERROR",
    ]


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-lean"])
def test_a_real_runtime_without_a_driver_is_explained(library: str) -> None:
    """It holds nothing then, which ends the process as soon as it is used or freed."""
    if find_spec(library.replace("-", "_")) is None:
        pytest.skip(f"{library.replace('-', '_')} is not installed")
    code = """
import sys
from types import SimpleNamespace
from frcnn.errors import ArtifactError
from frcnn.runtime.engines.tensorrt_engine import load_engine
gpu = SimpleNamespace(name="No GPU", compute_capability="0.0", activate=lambda: None)
try:
    load_engine(b"no engine" * 100, target=sys.argv[1], device=gpu, cache=None)
except ArtifactError as error:
    print(error)
"""
    printed = run_python(code, library, PYTHONPATH=os.pathsep.join(sys.path), CUDA_VISIBLE_DEVICES="")
    *_, line = printed.splitlines()  # TensorRT's own warning about its plugins may come first
    assert re.match(rf"No GPU: {library} [\d.]+ cannot (be used here|load the engine): \w+", line)
