"""The eager benchmark on the CPU: its model, its forms and its report; CUDA's own parts are replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maintenance.eager_forms as eager_forms
import pytest
import torch
from support import families

from frcnn.benchmarks.timing.measure import Limits

FORMS = {"fp32", "tf32", "fp16 autocast", "fp16 autocast, channels last", "bf16 autocast, channels last"}


def one_call(call: Callable[[], object]) -> float:
    """Make a call, and tell that it took the GPU 1.5 ms."""
    call()
    return 1.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla")
def test_every_form_is_run_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``cuda`` is the CPU, and the image small."""
    monkeypatch.setattr(eager_forms, "IMAGE", (48, 80))
    monkeypatch.setattr(eager_forms, "fasterrcnn_resnet50_fpn", lambda **_: families.build("resnet50_fpn"))
    monkeypatch.setattr(eager_forms, "_ROIS", 4)
    monkeypatch.setattr(eager_forms, "graph_of", lambda call: call)
    monkeypatch.setattr(eager_forms, "compiled", lambda last, _: lambda: last)
    monkeypatch.setattr(eager_forms, "cuda_ms", one_call)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    path = tmp_path / "eager.json"
    limits = Limits(budget_s=1, min_rounds=1, max_rounds=1, max_calls=1, max_warm_up=1, settle_s=0)
    eager_forms.measure(path, {"environment": {}}, [1, 2], limits)
    (report,) = json.loads(path.read_text())["models"]
    rows = {(entry["what"], entry["batch"]): entry["ways"] for entry in report["measurements"]}
    assert set(rows) == {(what, n) for what in ("image", "networks", "image, compiled") for n in (1, 2)}
    assert set(rows["image", 2]) == FORMS
    assert len(rows["networks", 1]) == 4
    times = rows["image", 1]["fp32"]
    assert times["gpu_ms"] == {"p50": 1.5, "p90": 1.5, "p99": 1.5, "min": 1.5, "max": 1.5, "calls": 1}
    assert times["wall_ms"]["p50"] > 0
    assert all(entry["noise"] >= 0 for entry in report["measurements"])
    assert report["detections"] == {"1": [100], "2": [100, 100]}
    assert "image, batch 2, tf32: 1.500 ms" in capsys.readouterr().out


def seen(form: str) -> tuple[bool, bool]:
    """Return whether TF32 and autocast are on within a form."""
    found: list[tuple[bool, bool]] = []
    run: Callable[[], Any] = eager_forms._in_form(
        form, lambda: found.append((torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cuda")))
    )
    run()
    return found[0]


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla")
def test_a_form_is_what_it_is_called() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert seen("fp32") == (False, False)
    assert seen("tf32") == (True, False)
    assert seen("fp16 autocast")[0]
    assert torch.backends.cudnn.allow_tf32 == before


def test_it_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert eager_forms.main(["-o", str(tmp_path / "a.json")]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
