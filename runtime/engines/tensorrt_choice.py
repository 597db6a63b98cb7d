"""The TensorRT that runs an artifact: the whole of it or, for version compatible engines, its lean runtime.

The lean runtime has no builder and no plugins and takes a twentieth of the disk. Our version compatible engines leave
it out of their plans, so they run in the release that built them only (NVIDIA, ``IRuntime::loadRuntime``): the whole of
that release, or its lean runtime, which can be installed beside a TensorRT of another release.
"""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.packages import is_installed
from frcnn.runtime.dependencies import TensorRTLibrary, import_tensorrt
from frcnn.runtime.engines.compatibility import release
from frcnn.runtime.model_files.engine_artifact import EngineArtifact


def choose_tensorrt(artifact: EngineArtifact) -> tuple[TensorRTLibrary, ModuleType]:
    """Return the library and its module that run an artifact here, the whole TensorRT where its release fits.

    Raises:
        MissingDependencyError: nothing that would run it is installed.
        ArtifactError: only a lean runtime is installed, which does not run these engines.
    """
    manifest = artifact.manifest
    try:
        module = import_tensorrt(manifest.target)
    except MissingDependencyError as error:
        if manifest.target != "tensorrt":
            raise
        return "tensorrt-lean", _lean_runtime(artifact, error)
    if manifest.version_compatible and module.__version__ != manifest.target_version:
        with suppress(MissingDependencyError):
            lean = import_tensorrt("tensorrt-lean")
            if lean.__version__ == manifest.target_version:
                return "tensorrt-lean", lean
    return manifest.target, module


def _lean_runtime(artifact: EngineArtifact, missing: MissingDependencyError) -> ModuleType:
    """Return the lean runtime where TensorRT is ``missing``, or refuse an artifact that it does not run."""
    manifest = artifact.manifest
    install = f"pip install '{release(manifest, lean=True)}'"
    if not manifest.version_compatible:
        if is_installed("tensorrt") or not is_installed("tensorrt_lean"):
            raise missing
        raise ArtifactError(
            f"{artifact.path}: TensorRT's lean runtime, which is here without TensorRT, runs version compatible "
            "engines only, and these are not",
            hint=f"{manifest.build_command(artifact.path)} --version-compatible, or install TensorRT: "
            f"pip install '{release(manifest)}'",
        )
    try:
        lean = import_tensorrt("tensorrt-lean")
    except MissingDependencyError as error:
        if is_installed("tensorrt"):
            raise missing from error
        error.hint = install
        raise
    if lean.__version__ != manifest.target_version:
        raise ArtifactError(
            f"{artifact.path}: its engines run in the lean runtime of TensorRT {manifest.target_version} only, here is "
            f"that of {lean.__version__}",
            hint=f"{install}, or {manifest.build_command(artifact.path)}",
        )
    return lean
