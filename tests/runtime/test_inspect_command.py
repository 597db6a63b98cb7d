"""``frcnn inspect``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from frcnn.cli import main
from frcnn.spec import Manifest

Captured = pytest.CaptureFixture[str]


def test_tables(model_path: Path, capsys: Captured) -> None:
    assert main(["inspect", str(model_path)]) == 0
    out = capsys.readouterr().out
    for text in (
        "3: cat, dog, teddy bear",
        "short side 64, long side at most 128",
        "any multiple of 32",
        "N x 3 x H x W",
        "ReduceMax",
        "4,096 of them weights",
        "assumed: min_size=64 (the builder's default)",
    ):
        assert text in out


def test_json(model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], capsys: Captured) -> None:
    path = model_of(manifest_of(canvases=((64, 128), (128, 64)), labels=None, fixed_size=(64, 64)))
    assert main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["manifest"]["canvases"] == [[64, 128], [128, 64]]
    assert report["inputs"][0] == {"name": "images", "dtype": "FLOAT", "shape": ["N", "3", "H", "W"]}
    assert report["operators"]["Cast"] == 3
    assert report["file_bytes"] == path.stat().st_size
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "64x128, 128x64 (height x width)" in out
    assert "resized to 64x64" in out
    assert "3: without names" in out


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "text", "truncated", "foreign"])
def test_what_is_no_model_of_ours(
    kind: str, tmp_path: Path, model_path: Path, model_of: Callable[..., Path], capsys: Captured
) -> None:
    path = model_of(None) if kind == "foreign" else tmp_path / "model.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind in ("empty", "text", "truncated"):
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": model_path.read_bytes()[:3000]}[kind])
    assert main(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error, hint = captured.err.splitlines()
    assert error.startswith(f"error: {path}: ")
    assert "frcnn export CHECKPOINT" in hint
