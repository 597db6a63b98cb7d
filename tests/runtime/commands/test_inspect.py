"""``frcnn inspect``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.engine_files import engine_parts, write_engine_file
from support.quantized import quantized

from frcnn.cli import main
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Manifest

Captured = pytest.CaptureFixture[str]


def test_tables_show_a_model(model_path: Path, capsys: Captured) -> None:
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


def test_json_holds_manifest_and_graph(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], capsys: Captured
) -> None:
    path = model_of(manifest_of(canvases=((64, 128), (128, 64)), labels=None, fixed_size=(64, 64)))
    assert main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["manifest"]["canvases"] == [[64, 128], [128, 64]]
    assert report["inputs"][0] == {"name": "images", "dtype": "FLOAT", "shape": ["N", "3", "H", "W"]}
    assert report["operators"]["Cast"] == 3
    assert report["file_bytes"] == path.stat().st_size
    assert report["kind"] == "onnx"
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "64x128, 128x64 (height x width)" in out
    assert "resized to 64x64" in out
    assert "3: without names" in out


def test_the_rule_of_another_trainer_is_shown(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], capsys: Captured
) -> None:
    path = model_of(manifest_of(resize="mmdetection"))
    assert main(["inspect", str(path)]) == 0
    assert "(pixels), resized as mmdetection does" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "text", "truncated", "foreign"])
def test_an_invalid_model_is_refused(
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


def test_layers_of_a_float_model(tiny_model: Path, capsys: Captured) -> None:
    assert main(["inspect", str(tiny_model), "--json", "--layers"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layer_counts"] == {"fp32": 9}
    first = {"name": "backbone/0/Conv", "operator": "Conv", "precision": "fp32"}
    assert report["layers"][0] == first and len(report["layers"]) == 9
    assert main(["inspect", str(tiny_model)]) == 0
    out = capsys.readouterr().out
    assert "9 fp32 convolutions and matrix products" in out
    assert "quantised by" not in out and "backbone/0/Conv" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("symmetric", "activations"), [(True, "zero point 0"), (False, "unsigned")])
def test_layers_of_an_int8_model(symmetric: bool, activations: str, tiny_model: Path, capsys: Captured) -> None:
    path = quantized(tiny_model, symmetric=symmetric)
    assert main(["inspect", str(path), "--layers"]) == 0
    out = capsys.readouterr().out
    for text in ("5 int8, 4 fp32 convolutions", "onnxruntime on 3 image(s)", activations):
        assert text in out
    rows = [line.split() for line in out.splitlines() if "/" in line]
    assert ["roi_heads/box_head/fc6/Gemm", "int8", "Gemm"] in rows
    assert ["roi_heads/box_predictor/cls_score/Gemm", "fp32", "Gemm"] in rows
    assert main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layer_counts"] == {"int8": 5, "fp32": 4} and "layers" not in report


# --- an engine artifact


def test_tables_show_an_engine(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would be folded over lines
    path = write_engine_file(Path("model.frcnn"))
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for text in (
        f"engine artifact {path}",
        "tensorrt-rtx 1.7.1.116, CUDA 13",
        "compute capability 8.0, 8.6, 8.9, 12.0, 12.1 and later",
        "sm_80, sm_89; PTX from compute_75 on for others",
        "6.0 MiB: weights 3.0, tensors 2.0, kernels 1.0; scratch on top",
        "3: cat, dog, teddy bear",
        "1:1:8",
        "engines/features.plan",
        "features_0 float16 NHWC",
        "iou_threshold 0.7",
        "spatial_scales 0.25 0.125",
        "kernels/box_detections-0123456789abcdef.*",
        hashlib.sha256(engine_parts()["engines/boxes.plan"]).hexdigest()[:12],
    ):
        assert text in out
    assert out.splitlines()[-1] == f"SHA-256 of the file: {hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert "/backbone/conv" not in out
    assert max(map(len, out.splitlines())) <= 110


def test_a_version_compatible_engine_is_told(tmp_path: Path, capsys: Captured) -> None:
    path = write_engine_file(tmp_path / "model.frcnn", target="tensorrt", version_compatible=True)
    assert main(["inspect", str(path)]) == 0
    assert (
        f"tensorrt {open_artifact(path).manifest.target_version}, version compatible, CUDA 13"
        in capsys.readouterr().out
    )


def test_layers_and_hashes_on_request(tmp_path: Path, capsys: Captured) -> None:
    path = write_engine_file(tmp_path / "model.frcnn", target="tensorrt")
    assert main(["inspect", str(path), "--layers", "--hashes"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "/backbone/conv" in line)
    assert row.split() == ["/backbone/conv", "float16", "heavy", "CONVOLUTION", "0"]
    parts = engine_parts(target="tensorrt")
    hashes = [line.split("  ") for line in out.splitlines() if len(line.split("  ")[0]) == 64]
    assert hashes == [[hashlib.sha256(data).hexdigest(), name] for name, data in parts.items()]


def test_a_layer_name_does_not_steer_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    record = {"step": 0, "layer": "a\x1b[2J[bold]\nb", "type": "UNARY", "element": "float32", "heavy": False}
    parts = engine_parts() | {"precision.json": json.dumps([record]).encode()}
    assert main(["inspect", str(write_engine_file(tmp_path / "model.frcnn", parts=parts)), "--layers"]) == 0
    out = capsys.readouterr().out
    assert "a\\x1b[2J[bold]\\nb" in out
    assert "\x1b" not in out


def test_json_of_an_engine_holds_manifest_and_layers(tmp_path: Path, capsys: Captured) -> None:
    path = write_engine_file(tmp_path / "model.frcnn")
    assert main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["file_bytes"]) == ("engine", path.stat().st_size)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(report["manifest"]["parts"]) == set(engine_parts())
    assert report["layer_counts"] == [
        {"element": "float16", "heavy": 1, "other": 0},
        {"element": "float32", "heavy": 0, "other": 1},
    ]
    assert "layers" not in report
    assert main(["inspect", str(path), "--json", "--layers"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == json.loads(engine_parts()["precision.json"])


@pytest.mark.parametrize("option", ["--json", "--layers"])
def test_a_damaged_engine_is_noticed_before_anything_is_shown(tmp_path: Path, option: str, capsys: Captured) -> None:
    path = write_engine_file(tmp_path / "model.frcnn")
    content = bytearray(path.read_bytes())
    content[content.index(engine_parts()["engines/boxes.plan"])] ^= 1
    path.write_bytes(content)
    assert main(["inspect", str(path), option]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the part engines/boxes.plan has the SHA-256" in captured.err.splitlines()[0]


def test_hashes_are_refused_for_an_onnx_model(model_path: Path, capsys: Captured) -> None:
    assert main(["inspect", str(model_path), "--hashes"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: --hashes: {model_path} is an ONNX model, only a model.frcnn has that"
    assert "frcnn build" in hint
