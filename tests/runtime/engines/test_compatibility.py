"""Compatibility: what does not fit this system is refused in one line with the command that fits.

The systems here are plain values; no GPU is asked.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.engine_files import RTX_VERSION, static_profile, write_engine_file

from frcnn.cli import VERBS
from frcnn.errors import ArtifactError, FrcnnError
from frcnn.runtime.engines.compatibility import check_gpu, check_runs_here
from frcnn.runtime.model_files.engine_artifact import EngineArtifact, open_engine_artifact
from frcnn.spec.engine import MemoryNeeds, Profile, Range

ArtifactOf = Callable[..., EngineArtifact]
HERE: dict[str, Any] = {
    "target_version": RTX_VERSION,
    "compute_capability": "8.9",
    "driver_cuda_version": "13.0",
    "free_bytes": 1 << 30,
}
STATIC = (static_profile(800, 1344),)
DYNAMIC = Profile(
    batch=Range(min=2, opt=2, max=4),
    height=Range(min=320, opt=800, max=1344),
    width=Range(min=320, opt=1088, max=1344),
)


@pytest.fixture
def artifact_of(tmp_path: Path) -> ArtifactOf:
    """Write an artifact and open it."""

    def make(**changes: Any) -> EngineArtifact:
        return open_engine_artifact(write_engine_file(tmp_path / "model.frcnn", **changes))

    return make


def commands(hint: str) -> list[str]:
    """Return the build commands in a hint; each must be one that ``frcnn build`` can read."""
    found = re.findall(r"frcnn build model\.onnx -o (?:'[^']*'|[^ ]+)(?: --[a-z-]+ [^ ,]+(?:,[^ ,]+)*)+", hint)
    for command in found:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        __import__(VERBS["build"].module, fromlist=["add_arguments"]).add_arguments(parser)
        parser.parse_args(shlex.split(command)[2:])
    return found


def refusal(artifact: EngineArtifact, **system: Any) -> ArtifactError:
    with pytest.raises(ArtifactError) as raised:
        check_runs_here(artifact, **HERE | system)
    return one_line(raised.value, artifact)


def gpu_refusal(artifact: EngineArtifact, compute_capability: str) -> ArtifactError:
    with pytest.raises(ArtifactError) as raised:
        check_gpu(artifact, compute_capability)
    return one_line(raised.value, artifact)


def one_line(error: FrcnnError, artifact: EngineArtifact) -> Any:
    assert error.message.startswith(f"{artifact.path}: ")
    assert "\n" not in error.message + error.hint
    return error


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0", "12.1", "13.0"])
def test_tensorrt_rtx_serves_these_gpus_by_default(artifact_of: ArtifactOf, capability: str) -> None:
    check_gpu(artifact_of(), capability)
    check_runs_here(artifact_of(), **HERE | {"compute_capability": capability})


@pytest.mark.parametrize("capability", ["8.7", "9.0", "10.0", "10.3", "11.0"])
def test_tensorrt_rtx_never_serves_these_gpus(artifact_of: ArtifactOf, capability: str) -> None:
    for built_for in ((), (capability,)):
        error = gpu_refusal(artifact_of(compute_capabilities=built_for), capability)
        served = "7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and later"
        assert error.message.endswith(f": TensorRT-RTX serves GPUs of compute capability {served}, not {capability}")
        assert "frcnn build model.onnx --target onnxruntime" in error.hint
        assert error.hint.endswith("frcnn build model.onnx --target tensorrt")
    check_gpu(artifact_of(target="tensorrt", compute_capabilities=(capability,)), capability)


def test_a_newer_driver_serves_older_kernels(artifact_of: ArtifactOf) -> None:
    for version in ("13.0", "13.4", "14.0"):
        check_runs_here(artifact_of(), **HERE | {"driver_cuda_version": version})


@pytest.mark.parametrize("version", ["1.7.2.1", "1.7.1.117", "1.7.1", "2.0.0.0", ""])
def test_another_tensorrt_version_is_refused(artifact_of: ArtifactOf, version: str) -> None:
    error = refusal(artifact_of(profiles=STATIC), target_version=version)
    assert (
        f"its engines are for TensorRT-RTX {RTX_VERSION} and run on no other version, here is {version}"
        in error.message
    )
    assert len(commands(error.hint)) == 1
    assert "--target tensorrt-rtx --precision fp16 --batch 1:1:8 --size 800x1344" in error.hint
    assert error.hint.endswith(f"pip install 'tensorrt-rtx-cu13=={RTX_VERSION}'")


def test_an_older_driver_is_refused(artifact_of: ArtifactOf) -> None:
    error = refusal(artifact_of(), driver_cuda_version="12.8")
    assert "its kernels are for CUDA 13, the driver here serves CUDA 12.8" in error.message
    assert "NVIDIA's driver r580 or later" in error.hint
    assert len(commands(error.hint)) == 1
    assert "a newer NVIDIA driver" in refusal(artifact_of(cuda_major=15)).hint


def test_turing_needs_an_explicit_target(artifact_of: ArtifactOf) -> None:
    error = gpu_refusal(artifact_of(), "7.5")
    assert "for GPUs of compute capability 8.0, 8.6, 8.9, 12.0, 12.1 and later, this one has 7.5" in error.message
    (command,) = commands(error.hint)
    assert command.endswith("--compute-capability 7.5")
    check_gpu(artifact_of(compute_capabilities=("7.5",)), "7.5")


def test_a_gpu_that_no_target_serves_is_refused(artifact_of: ArtifactOf) -> None:
    error = gpu_refusal(artifact_of(), "6.1")
    assert error.message.endswith(" and later, not 6.1")
    assert error.hint.endswith("run model.onnx on the processor: Detector.load('model.onnx')")


def test_a_gpu_that_the_engines_were_not_built_for_is_refused(artifact_of: ArtifactOf) -> None:
    artifact = artifact_of(compute_capabilities=("8.9", "12.0"))
    error = gpu_refusal(artifact, "8.6")
    assert "for GPUs of compute capability 8.9, 12.0, this one has 8.6" in error.message
    (command,) = commands(error.hint)
    assert command.endswith("--compute-capability 8.9,12.0,8.6")
    (command,) = commands(gpu_refusal(artifact, "13.0").hint)  # which has no name to build for, but is served
    assert "--compute-capability" not in command


def test_a_tensorrt_plan_of_another_gpu_is_built_on_this_system(artifact_of: ArtifactOf) -> None:
    artifact = artifact_of(target="tensorrt")
    check_gpu(artifact, "8.9")
    check_runs_here(artifact, **HERE | {"target_version": "10.13.3.9"})
    error = gpu_refusal(artifact, "9.0")
    assert "for GPUs of compute capability 8.9, this one has 9.0" in error.message
    assert error.hint.startswith("on this system: frcnn build model.onnx")
    assert "--compute-capability" not in error.hint
    assert "pip install 'tensorrt-cu13==10.13.3.9'" in refusal(artifact, target_version="10.14.0.1").hint


@pytest.mark.parametrize("capability", ["7.5", "8.9", "9.0", "10.0", "12.0"])
def test_onnxruntime_serves_every_gpu_that_there_are_kernels_for(artifact_of: ArtifactOf, capability: str) -> None:
    artifact = artifact_of(target="onnxruntime")
    here = HERE | {"target_version": "1.32.0", "compute_capability": capability}
    check_gpu(artifact, capability)
    check_runs_here(artifact, **here)
    only_ada = artifact_of(target="onnxruntime", architectures=("sm_89",))
    check_gpu(only_ada, capability)
    if capability == "8.9":
        check_runs_here(only_ada, **here)
    else:
        assert "its kernels are for sm_89, this one needs" in refusal(only_ada, **here).message


@pytest.mark.parametrize("version", ["1.28.2", "1.9.0", "0.30"])
def test_an_older_onnxruntime_is_refused(artifact_of: ArtifactOf, version: str) -> None:
    artifact = artifact_of(target="onnxruntime")
    for later in ("1.29.0", "1.31.1", "2.0.0", "1.33.0.dev20261101"):
        check_runs_here(artifact, **HERE | {"target_version": later})
    error = refusal(artifact, target_version=version)
    assert error.message.endswith(f"its networks need ONNX Runtime 1.29 or later, here is {version}")
    assert error.hint == "pip install 'onnxruntime-gpu>=1.29'"


@pytest.mark.parametrize(
    ("architectures", "runs"),
    [
        (("sm_89",), True),
        (("compute_75",), True),
        (("compute_89",), True),
        (("sm_80", "sm_86", "compute_120"), False),
        (("sm_80", "sm_86"), False),
        (("compute_90a", "sm_89a"), False),
        ((), False),
    ],
)
def test_kernels_must_be_for_this_gpu_or_ptx_for_an_older_one(
    artifact_of: ArtifactOf, architectures: tuple[str, ...], *, runs: bool
) -> None:
    artifact = artifact_of(architectures=architectures)
    if runs:
        check_runs_here(artifact, **HERE)
        return
    error = refusal(artifact)
    assert f"its kernels are for {', '.join(architectures) or 'no GPU'}, this one needs sm_89, or PTX" in error.message
    assert len(commands(error.hint)) == 1


def test_three_digit_architectures_are_compared_as_numbers(artifact_of: ArtifactOf) -> None:
    check_runs_here(artifact_of(architectures=("compute_90",)), **HERE | {"compute_capability": "12.0"})
    refusal(artifact_of(architectures=("compute_120",)), compute_capability="9.0")


def test_too_little_memory_is_refused(artifact_of: ArtifactOf) -> None:
    memory = MemoryNeeds(weights_bytes=100 << 20, tensors_bytes=50 << 20, workspace_bytes=1)
    artifact = artifact_of(memory=memory)
    check_runs_here(artifact, **HERE | {"free_bytes": (150 << 20) + 1})
    error = refusal(artifact, free_bytes=150 << 20)
    assert "it needs 151 MiB of GPU memory and the engines' scratch besides, 150 MiB are free" in error.message
    (command,) = commands(error.hint)
    assert "--batch 1 " in command
    single = artifact_of(memory=memory, profiles=(static_profile(800, 1344, (1, 1, 1)),))
    assert "a smaller canvas takes less" in refusal(single, free_bytes=0).hint
