"""The measurement of the pipeline on the CPU: all but the GPU's time."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import maintenance.eager_forms as eager_forms
import maintenance.pipeline_forms as pipeline_forms
import pytest
import torch
from maintenance.torch_detector import make_detector
from PIL import Image
from support.cuda_on_cpu import KeptDevice, let_cuda_be_the_cpu
from support.exports import calibrated
from support.fake_device import code_of
from support.images import SHAPES, photographs
from support.torch_engines import on_fake_device

from frcnn.benchmarks.timing.measure import Limits


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> KeptDevice:
    """Let ``cuda`` be the CPU, the networks narrow and in float32, and the images small."""
    device = let_cuda_be_the_cpu(monkeypatch)

    def made(model: Any, precision: Any, **_: Any) -> Any:
        detector = make_detector(model, "fp32", architecture="sm_89", on_gpu=False, compile_code=code_of)
        return on_fake_device(detector, device)

    def of_family(image: torch.Tensor) -> Any:
        return calibrated("resnet50_fpn")

    for name, value in {
        "IMAGE": (96, 160),
        "_BATCHES": (1, 2),
        "_THREADS": 2,
        "_CALLS": 2,
        "_PRECISIONS": ("fp16",),
        "draw": device.draw,
        "_architecture": lambda: "sm_89",
        "CudaDevice": lambda: device,
        "make_detector": made,
        "make_model": of_family,
        "compiled": lambda last, images: lambda: last(images),
    }.items():
        monkeypatch.setattr(pipeline_forms, name, value)
    return device


@pytest.mark.slow
def test_everything_is_measured_and_kept(
    on_the_cpu: KeptDevice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipeline.json"
    limits = Limits(budget_s=1, min_rounds=1, max_rounds=1, max_calls=1, max_warm_up=1, settle_s=0)
    pipeline_forms.measure(path, {"environment": {}}, limits, None)
    report = json.loads(path.read_text())
    assert report["failed"] == []
    (model,) = report["models"]
    rows = {(entry["what"], entry["batch"]): set(entry["ways"]) for entry in model["measurements"]}
    ours = "frcnn, PyTorch's networks, fp16"
    assert rows["image", 2] == {"fp32", "fp16 autocast", eager_forms.COMPILED, ours}
    assert rows["pipeline, fp16", 1] == {"one CUDA graph", "launched step by step"}
    assert ours in rows["image, compiled", 1]
    first = report["stages"][0]
    assert first["has_graph"]
    kinds = [name.split(":")[0] for name in first["microseconds"]]
    assert kinds.count("engine") == 2
    assert kinds[:3] == ["upload", "upload", "preprocess"]
    assert report["threads"] == [{"threads": 2, "images": 4, "images_per_second": pytest.approx(1, abs=1e6)}]
    assert "stage, batch 1, fp16, engine: engines/features.plan" in capsys.readouterr().out
    assert not on_the_cpu.misuses


@pytest.mark.slow
def test_parity_is_of_the_demo_on_both_canvases(
    on_the_cpu: KeptDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photographs(SHAPES[0])[0]).save(tmp_path / "a.png")
    found = pipeline_forms._parity("fp32", tmp_path)
    assert found["images"] == 2
    assert found["unmatched"] == 0


def test_a_failure_is_kept_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access")

    for name in ("_parity", "_in_threads", "image_forms"):
        monkeypatch.setattr(pipeline_forms, name, fails)
    for name in ("make_model", "make_detector", "draw", "as_float", "_architecture"):
        monkeypatch.setattr(pipeline_forms, name, lambda *_, **__: SimpleNamespace(cpu=lambda: None, cuda=lambda: None))
    monkeypatch.setattr(pipeline_forms, "deepcopy", lambda _: SimpleNamespace(cuda=lambda: torch.nn.Linear(1, 1)))
    path = tmp_path / "pipeline.json"
    pipeline_forms.measure(path, {"environment": {}}, Limits(budget_s=1), tmp_path)
    report = json.loads(path.read_text())
    cases = [failure["case"] for failure in report["failed"]]
    assert cases == ["parity, fp16", "parity, fp32", "speed, batch 1", "speed, batch 8", "speed, compiled", "threads"]
    assert "FAILED threads: CUDA error" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline_forms.main(["-o", str(tmp_path / "a.json")]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
