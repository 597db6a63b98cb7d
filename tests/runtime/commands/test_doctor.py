"""``frcnn doctor`` and frcnn.runtime.doctor.system: they look, import nothing heavy and never fail."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.libcuda import run_with_stand_in

from frcnn.cli import main
from frcnn.errors import KernelError, MissingDependencyError
from frcnn.plugins.cuda.compiler import supported_architectures
from frcnn.runtime.doctor import cuda as system_cuda
from frcnn.runtime.doctor import system as system
from frcnn.runtime.doctor.cuda import Check, find_cuda_driver, find_kernel_compiler, with_abilities
from frcnn.runtime.doctor.system import can_detect, look_around
from frcnn.spec.gpu_runs import read_runs, runs_on_generation

Captured = pytest.CaptureFixture[str]


def finding(name: str) -> Check:
    return next(item for item in look_around() if item.name == name)


def test_table(capsys: Captured) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for text in ("python", "onnxruntime", "torch", "tensorrt", "NVIDIA GPU", "detection works here"):
        assert text in out


def test_json(capsys: Captured) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_detect"] is True
    rows = {row["name"]: row for row in report["findings"]}
    assert rows["onnxruntime"]["status"] == "ok"
    assert rows["torch"]["detail"] == metadata.version("torch")
    assert all(row["status"] in ("ok", "missing", "broken") for row in rows.values())
    assert all(row["fix"] for row in rows.values() if row["status"] != "ok")


def test_torch_is_never_imported() -> None:
    code = "import sys; from frcnn.cli import main; main(['doctor']); sys.exit('torch' in sys.modules)"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


def test_without_onnxruntime_detection_does_not_work(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install 'frcnn[cpu]'" in out
    assert "detection does not work here: onnxruntime" in out


def test_what_is_next_runs_without_torch_too(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "next: frcnn try\n"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "next: frcnn detect MODEL IMAGES\n"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_broken_library_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise RuntimeError(f"lib{name}.so: wrong ELF class")

    monkeypatch.setattr(system.importlib, "import_module", broken)
    found = finding(name)
    assert found.status == "broken"
    assert f"lib{name}.so: wrong ELF class" in found.detail
    assert can_detect([found]) == (name == "openvino")


def test_openvino_is_there_with_its_precisions() -> None:
    found = finding("openvino")
    assert found.status == "ok"
    assert found.detail.startswith(metadata.version("openvino"))
    assert ": fp32" in found.detail


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(metadata, "version", nothing)
    extras = {item.name: item.fix for item in look_around()}
    for name, extra in (
        ("torch", "export"),
        ("onnxruntime", "cpu"),
        ("onnxruntime-gpu", "gpu"),
        ("openvino", "openvino"),
        ("tensorrt", "tensorrt"),
        ("tensorrt_lean", "tensorrt-lean"),
        ("tensorrt_rtx", "rtx"),
        ("pycuda", "pycuda"),
        ("faster-coco-eval", "eval"),
        ("pandas", "pandas"),
        ("supervision", "supervision"),
    ):
        assert f"frcnn[{extra}]" in extras[name]


def fake_program(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert finding("NVIDIA GPU").status == "missing"
    assert "GPU runs" not in {item.name for item in look_around()}
    fake_program(tmp_path, "echo 'NVIDIA H100, 580.1, 9.0'")
    assert finding("NVIDIA GPU").status == "ok"
    assert "NVIDIA H100, 580.1, 9.0" in finding("NVIDIA GPU").detail
    rtx = finding("tensorrt_rtx")  # no driver is seen, yet nvidia-smi tells the GPU
    assert rtx.detail.endswith("does not serve compute capability 9.0")
    assert "frcnn build model.onnx --target tensorrt" in rtx.fix
    assert finding("GPU runs").detail == runs_on_generation(read_runs(), "9.0")
    fake_program(tmp_path, "echo 'NVIDIA L4, 580.1, 8.9'")
    assert "does not serve" not in finding("tensorrt_rtx").detail
    fake_program(tmp_path, "echo 'driver/library version mismatch' >&2; exit 18")
    assert finding("NVIDIA GPU").status == "broken"
    assert "version mismatch" in finding("NVIDIA GPU").detail
    monkeypatch.setattr(system, "_NVIDIA_SMI_SECONDS", 0.2)
    fake_program(tmp_path, "while :; do :; done")
    assert "timed out" in finding("NVIDIA GPU").detail


# ---- CUDA and TensorRT


def raising(error: Exception) -> Any:
    def function(*arguments: object) -> Any:
        raise error

    return function


def test_the_kernel_compiler_is_there_without_a_gpu() -> None:
    found = find_kernel_compiler()
    architectures = supported_architectures()
    assert found.status == "ok"
    assert found.detail.startswith("13.")
    assert f"compiles here without a GPU, {architectures[0]} to {architectures[-1]} and PTX" in found.detail


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (MissingDependencyError("nvidia-cuda-nvrtc", extra="cuda", why="x"), "missing", "nvidia-cuda-nvrtc is not"),
        (OSError("libnvrtc.so.13: wrong ELF class"), "broken", "wrong ELF class"),
    ],
)
def test_a_kernel_compiler_that_is_not_there(
    error: Exception, status: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_cuda, "compiler_version", raising(error))
    found = find_kernel_compiler()
    assert found.status == status
    assert detail in found.detail
    assert found.fix == "pip install 'frcnn[cuda]'"


@pytest.mark.parametrize(
    ("function", "error", "status", "detail"),
    [
        ("import_driver", MissingDependencyError("cuda-bindings", extra="cuda", why="x"), "missing", "cuda-bindings"),
        ("import_driver", OSError("cannot map"), "broken", "cannot map"),
        ("ask_driver", KernelError("no libcuda"), "missing", "no driver"),
    ],
)
def test_a_driver_that_is_not_there(
    function: str, error: Exception, status: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_cuda, function, raising(error))
    found, gpus = find_cuda_driver()
    assert (found.status, bool(found.fix), gpus) == (status, True, ())
    assert detail in found.detail


DOCTOR = """
import json
from support.libcuda import StandIn
from frcnn.runtime.doctor.cuda import find_cuda_driver
driver = StandIn()
found = []
for devices, failing in ((2, None), (0, None), (1, "cuInit")):
    driver.set_devices(devices)
    if failing:
        driver.fail(failing, 803)
    row, gpus = find_cuda_driver()
    found.append((row.status, row.detail, gpus))
print(json.dumps([found, driver.live()]))
"""


def test_the_gpus_that_the_driver_sees(tmp_path: Path) -> None:
    """Asked through NVIDIA's bindings, of a stand-in; no context is made by asking."""
    (two, none, mismatch), live = json.loads(run_with_stand_in(DOCTOR, tmp_path))
    assert two == [
        "ok",
        "CUDA 13.0: 0 Stand-in 0, compute capability 9.0; 1 Stand-in 1, compute capability 9.0",
        ["9.0", "9.0"],
    ]
    assert none == ["missing", "CUDA 13.0, sees no GPU", []]
    assert mismatch == ["broken", "CUDA 13.0, cuInit returned CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", []]
    assert live.endswith("contexts=0")


def row(name: str, status: Any = "ok") -> Check:
    return Check(name=name, status=status, purpose="", detail="1.0")


@pytest.mark.parametrize(
    ("name", "gpu", "nvrtc", "says"),
    [
        ("tensorrt_rtx", "missing", "ok", "1.0, builds artifacts here, runs none here: no GPU"),
        ("tensorrt_rtx", "ok", "ok", "1.0, builds artifacts here, runs them here"),
        ("tensorrt_rtx", "ok", "missing", "1.0, builds none here: no NVRTC, runs them here"),
        ("tensorrt", "missing", "ok", "1.0, builds none here: no GPU, runs none here: no GPU"),
        ("tensorrt_lean", "missing", "ok", "1.0, builds none: it has no builder, runs none here: no GPU"),
        ("tensorrt_lean", "ok", "ok", "1.0, builds none: it has no builder, runs those of its own release here"),
        ("tensorrt", "ok", "ok", "1.0, builds artifacts here, runs them here"),
        ("tensorrt", "ok", "broken", "1.0, builds none here: no NVRTC, runs them here"),
        ("onnxruntime-gpu", "missing", "ok", "1.0, builds artifacts here, runs none here: no GPU"),
        ("onnxruntime-gpu", "ok", "ok", "1.0, builds artifacts here, runs them here"),
    ],
)
def test_what_a_tensorrt_allows(name: str, gpu: str, nvrtc: str, says: str) -> None:
    gpus = ("8.9",) if gpu == "ok" else ()
    found = with_abilities(row(name), row("CUDA driver", gpu), row("NVRTC", nvrtc), gpus)
    assert (found.detail, found.fix) == (says, "")


@pytest.mark.parametrize(
    ("gpus", "says"),
    [
        (("9.0", "9.0"), "1.0, builds artifacts here, runs none here: it does not serve compute capability 9.0"),
        (("9.0", "10.0"), "1.0, builds artifacts here, runs none here: it does not serve compute capability 9.0, 10.0"),
        (("8.9", "9.0"), "1.0, builds artifacts here, runs them here, but it does not serve compute capability 9.0"),
    ],
)
def test_a_gpu_that_tensorrt_rtx_does_not_serve(gpus: tuple[str, ...], says: str) -> None:
    found = with_abilities(row("tensorrt_rtx"), row("CUDA driver"), row("NVRTC"), gpus)
    assert (found.status, found.detail) == ("ok", says)
    assert "frcnn build model.onnx --target onnxruntime" in found.fix
    assert "frcnn build model.onnx --target tensorrt" in found.fix
    for name in ("tensorrt", "onnxruntime-gpu"):
        other = with_abilities(row(name), row("CUDA driver"), row("NVRTC"), gpus)
        assert (other.detail, other.fix) == ("1.0, builds artifacts here, runs them here", "")


def test_a_gpu_that_a_missing_tensorrt_rtx_would_not_serve() -> None:
    missing = Check(name="tensorrt_rtx", status="missing", purpose="", detail="not installed", fix="pip install x")
    found = with_abilities(missing, row("CUDA driver"), row("NVRTC"), ("9.0",))
    assert (found.status, found.detail) == ("missing", "not installed, it does not serve compute capability 9.0")
    assert found.fix.endswith("frcnn build model.onnx --target tensorrt; to build for other GPUs pip install x")


def test_a_missing_tensorrt_allows_nothing() -> None:
    missing = row("tensorrt", "missing")
    assert with_abilities(missing, row("CUDA driver"), row("NVRTC"), ("9.0",)) is missing
