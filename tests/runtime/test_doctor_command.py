"""``frcnn doctor`` and frcnn.runtime.machine: they look, import nothing heavy and never fail."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from frcnn.cli import main
from frcnn.runtime import machine
from frcnn.runtime.machine import Finding, can_detect, look_around

Captured = pytest.CaptureFixture[str]


def finding(name: str) -> Finding:
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


def test_a_broken_onnxruntime_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise RuntimeError("libonnxruntime.so: wrong ELF class")

    monkeypatch.setattr(machine.importlib, "import_module", broken)
    found = finding("onnxruntime")
    assert found.status == "broken"
    assert "wrong ELF class" in found.detail
    assert not can_detect([found])


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(machine.metadata, "version", nothing)
    extras = {item.name: item.fix for item in look_around()}
    for name, extra in (
        ("torch", "export"),
        ("onnxruntime", "cpu"),
        ("onnxruntime-gpu", "gpu"),
        ("tensorrt", "tensorrt"),
        ("tensorrt_rtx", "rtx"),
        ("pycuda", "pycuda"),
        ("supervision", "bench"),
    ):
        assert f"frcnn[{extra}]" in extras[name]


def fake_program(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert finding("NVIDIA GPU").status == "missing"
    fake_program(tmp_path, "echo 'NVIDIA H100, 580.1, 9.0'")
    assert finding("NVIDIA GPU").status == "ok"
    assert "NVIDIA H100, 580.1, 9.0" in finding("NVIDIA GPU").detail
    fake_program(tmp_path, "echo 'driver/library version mismatch' >&2; exit 18")
    assert finding("NVIDIA GPU").status == "broken"
    assert "version mismatch" in finding("NVIDIA GPU").detail
    monkeypatch.setattr(machine, "_NVIDIA_SMI_SECONDS", 0.2)
    fake_program(tmp_path, "while :; do :; done")
    assert "timed out" in finding("NVIDIA GPU").detail
