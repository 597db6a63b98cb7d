"""AP in every provider and precision, measured by ``frcnn eval``; what cannot run is left out."""

from __future__ import annotations

import json
from pathlib import Path

import maintenance.provider_accuracy as provider_accuracy
import msgspec
import pytest
from maintenance.committed import ProviderAccuracy


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The evaluations that are run, on a system without bf16; each finds another AP."""
    ran: list[list[str]] = []

    def frcnn(arguments: list[str]) -> int:
        ran.append(arguments)
        if "bf16" in arguments:
            return 2
        ap = {"AP": 0.5 + len(ran) / 100, "AP50": 0.8, "AP75": 0.6}
        eager = ap | {"AP": 0.4} if "--checkpoint" in arguments else None
        found = ap | {"eager": eager, "images": 3, "objects": 9, "partial": False, "command": ""}
        Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(found))
        return 0

    files = [tmp_path / "float.onnx", tmp_path / "int8.onnx"]
    monkeypatch.setattr(provider_accuracy, "frcnn", frcnn)
    monkeypatch.setattr(provider_accuracy, "make_int8", lambda folder, model: files)
    monkeypatch.setattr(provider_accuracy, "annotated_scenes", lambda scenes, demo, **_: scenes)
    return ran


def test_every_provider_and_precision_has_a_row(commands: list[list[str]], tmp_path: Path) -> None:
    output = tmp_path / "int8-demo.json"
    assert provider_accuracy.main(["-o", str(output), "--folder", str(tmp_path), "--count", "3"]) == 0
    found = msgspec.json.decode(output.read_bytes(), type=ProviderAccuracy)
    rows = [(row.provider, row.precision, row.rest, row.ap) for row in found.rows]
    assert rows == [
        ("eager", "fp32", "fp32", 0.4),
        ("cpu", "fp32", "fp32", pytest.approx(0.51)),
        ("openvino", "fp32", "fp32", pytest.approx(0.52)),
        ("cpu", "int8", "fp32", pytest.approx(0.54)),
        ("openvino", "int8", "fp32", pytest.approx(0.55)),
    ]
    assert [Path(arguments[1]).stem for arguments in commands] == ["float"] * 3 + ["int8"] * 3
    assert found.environment.cpu and "--count 3" in found.environment.command
    assert found.checkpoint == "digits.pth"
