"""``frcnn export`` on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from support import tiny_models
from support.engine_files import source_manifest

from frcnn.cli import main
from frcnn.exporter.graph import export as onnx_export
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.spec import CheckpointOptions, Manifest

ARCH = f"{tiny_models.__file__}:build"


@pytest.fixture
def exported(monkeypatch):
    """Replace the exporter proper by one that writes a few bytes and remembers what it was asked for."""
    calls: list[dict[str, Any]] = []

    def export(model: torch.nn.Module, path: Path, **options: Any) -> Manifest:
        calls.append({"path": path} | options)
        path.write_bytes(b"onnx" * 250_000)
        spec = read_model_spec(model, architecture="tiny", labels=None)
        kept = {"source_sha256": options["source_sha256"], "assumptions": tuple(options["assumptions"])}
        manifest = source_manifest(precision=options["precision"], canvases=options["size"])
        return msgspec.structs.replace(manifest, model=spec, **kept)

    monkeypatch.setattr(onnx_export, "export_onnx", export)
    return calls


def test_export_prints_what_was_read_assumed_and_made(checkpoint, exported, tmp_path, capsys):
    output = tmp_path / "new" / "tiny.onnx"
    words = ["export", str(checkpoint), "--arch", ARCH, "-o", str(output), "--size", "64x96", "--precision", "fp16"]
    words.append("--inline")
    assert main(words) == 0
    (call,) = exported
    assert call["path"] == output
    assert call["size"] == ((64, 96),)
    assert call["precision"] == "fp16" and call["inline"]
    assert call["architecture"] == "tiny_models.py:build"
    assert call["checkpoint_options"] == CheckpointOptions(arch="tiny_models.py:build")
    assert len(call["source_sha256"]) == 64
    printed = capsys.readouterr().out
    assert printed.index("read off the weights:") < printed.index("assumed:") < printed.index("wrote ")
    assert all(f"  {line}\n" in printed for line in call["assumptions"])
    assert f"wrote {output}: 1.0 MB, fp16, " in printed
    assert "images (N, 3, H, W), HxW 64x96" in printed
    assert "boxes (N, 100, 4)" in printed


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
@pytest.mark.parametrize("verb", ["export", "build", "bench", "compare"])
def test_a_terminal_shows_something_before_pytorch_is_imported(verb, checkpoint, exports, tmp_path):
    """PyTorch's import takes seconds; here it only says when it begins."""
    import pty

    (tmp_path / "torch.py").write_text("import os\nos.write(1, b'<import>')\nraise ModuleNotFoundError(name='torch')\n")
    model = [str(exports("vgg16").path), "--images", "."] if verb == "compare" else []
    command = [sys.executable, "-m", "frcnn", verb, str(checkpoint), "--arch", ARCH, *model]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    master, terminal = pty.openpty()
    environment = dict(os.environ, PYTHONPATH=paths, TERM="xterm")
    ended = subprocess.run(command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, timeout=60)
    os.close(terminal)
    screen = os.read(master, 65536).decode()
    os.close(master)
    assert ended.returncode == 2
    assert "importing PyTorch" in screen.partition("<import>")[0], screen
    assert "error: reading a checkpoint needs the package 'torch'" in screen


def test_export_names_the_file_after_the_checkpoint(checkpoint, exported, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["export", str(checkpoint), "--arch", ARCH]) == 0
    assert [path.name for path in folder.iterdir()] == ["my.onnx"]
    assert exported[0]["size"] is None and not exported[0]["inline"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--arch", ARCH, "-o", "model.trt"], "expected a file name ending in .onnx"),
        (["--arch", ARCH, "--size", "huge"], "--size: expected HEIGHTxWIDTH"),
        (["--arch", "resnet"], "unknown architecture 'resnet'"),
        (["--arch", ARCH, "-o", "my.pth/model.onnx"], "cannot make the folder"),
        ([], "fits no known architecture"),
    ],
)
def test_export_of_bad_input_is_one_line_and_leaves_nothing(argv, expected, checkpoint, exported, monkeypatch, capsys):
    monkeypatch.chdir(checkpoint.parent)
    assert main(["export", "my.pth", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert expected in lines[0] and lines[0].startswith("error: ")
    assert [line[:6] for line in lines[1:]] in (["hint: "], [])
    assert [path.name for path in checkpoint.parent.iterdir()] == ["my.pth"]
    assert not exported


def test_an_unknown_precision_is_refused(checkpoint, exported, capsys):
    assert main(["export", str(checkpoint), "--arch", ARCH, "--precision", "int8"]) == 2
    assert "--precision: expected one of fp32, fp16, bf16, got int8" in capsys.readouterr().err and not exported


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["export", str(tmp_path / "none.pth"), "--arch", "resnet", "--debug"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert "error: --arch: unknown architecture 'resnet'" in errors
