"""The verb ``frcnn build``: from a checkpoint and from a model.onnx, what it prints, and what it refuses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models

from frcnn.cli import VERBS, main
from frcnn.exporter.commands import build
from frcnn.exporter.graph.source_model import read_source_model
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec.gpu_runs import read_runs, summary

ROOT = Path(__file__).parents[3]
TINY = tiny_models.__file__
QUICK = ["--size", "64x64:160x224:160x288", "--batch", "1:1:2", "--kernel-arch", "sm_89"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    torch.save(tiny_models.build().state_dict(), path)
    return path


@pytest.fixture
def exported_before(exports, monkeypatch):
    """What comes after the export is the test's matter: another model's takes its place."""
    monkeypatch.setattr(build, "_export", lambda _arguments, _request, _step: read_source_model(exports("vgg16").path))


def from_checkpoint(checkpoint: Path, *more: str) -> list[str]:
    options = ["--arch", f"{TINY}:build", "--target", "tensorrt-rtx", "--size", "64x96", "--batch", "1:1:2"]
    return ["build", str(checkpoint), *options, "--kernel-arch", "sm_89", *more]


def test_a_model_is_built_and_summarised(exports, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("frcnn.exporter.engine.build_gpu.gpu_compute_capability", lambda: None)
    output = tmp_path / "new" / "model.frcnn"
    assert main(["build", str(exports("vgg16", "fp16").path), "-o", str(output), *QUICK]) == 0
    printed = capsys.readouterr()
    manifest = open_artifact(output).manifest
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"wrote {output}: {output.stat().st_size / 1e6:.1f} MB, ")
    assert lines[1:7] == [
        f"  target:    tensorrt-rtx {manifest.target_version} on compute capability "
        "8.0, 8.6, 8.9, 12.0, 12.1 and later",
        "  chosen:    no GPU is here and none is named",
        "  profile:   batch 1:1:2, canvas 64x64:160x224:160x288",
        "  steps:     2 engines, 3 operators",
        "  kernels:   for sm_89, compute_75",
        "  precision: 17 of 17 convolutions and matrix products in fp16; boxes and scores in fp32",
    ]
    assert f"{manifest.memory.weights_bytes / 1e6:.1f} MB weights" in lines[7]
    assert len(lines) == 8
    *done, last = printed.err.splitlines()
    assert last == f"next, on its GPU: frcnn detect {output} IMAGES"
    assert all(re.fullmatch(r"\w[^:]* \(\d+\.\d s\)", line) for line in done)  # steps, if slow


def test_auto_builds_for_onnxruntime_where_tensorrt_rtx_does_not_serve_the_gpu(exports, tmp_path, capsys):
    output = tmp_path / "model.frcnn"
    options = ["--compute-capability", "8.9,9.0", "--size", "64x64", "--batch", "1"]
    assert main(["build", str(exports("vgg16", "fp16").path), "-o", str(output), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  target:    onnxruntime, on every GPU that it and the kernels run on"
    assert lines[2].startswith("  chosen:    TensorRT-RTX does not serve compute capability 9.0, and TensorRT ")
    assert lines[3:6] == [
        "  profile:   batch 1, canvas 64x64",
        "  steps:     2 engines, 3 operators",
        "  kernels:   for sm_89, sm_90, compute_75",
    ]
    assert open_artifact(output).manifest.target == "onnxruntime"


def test_a_target_that_is_named_is_not_explained(exports, tmp_path, capsys):
    output = tmp_path / "model.frcnn"
    options = ["--target", "onnxruntime", "--size", "64x64", "--kernel-arch", "sm_90"]
    assert main(["build", str(exports("vgg16", "fp16").path), "-o", str(output), *options]) == 0
    assert "chosen" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_is_exported_first(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nteddy\n")
    arguments = from_checkpoint(
        checkpoint, "--labels", str(labels), "--precision", "fp16", "--arg", "box_score_thresh=0.2"
    )
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "read off the weights" in printed
    manifest = open_artifact(tmp_path / "tiny.frcnn").manifest
    assert (manifest.precision, manifest.source.canvases) == ("fp16", ((64, 96),))
    assert manifest.source.model.labels == ("__background__", "cat", "dog", "teddy")
    assert manifest.source.model.roi_heads.score_thresh == 0.2
    assert manifest.source.source_sha256 is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "tiny.frcnn"]


def test_verify_goes_on_with_compare_on_a_gpu_and_prints_the_command_elsewhere(
    checkpoint, exported_before, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "m.frcnn"
    arguments = from_checkpoint(checkpoint, "-o", str(output), "--verify", "my images", "--arg", "min_size=64")
    monkeypatch.setattr("frcnn.exporter.engine.build_gpu.gpu_compute_capability", lambda: None)
    assert main(arguments) == 0
    noted = capsys.readouterr().err
    command = noted.strip().partition("where there is one: ")[2]
    expected = ["compare", str(checkpoint), str(output), "--arch", f"{TINY}:build", "--arg", "min_size=64"]
    assert shlex.split(command) == ["frcnn", *expected, "--images", "my images"]

    monkeypatch.setattr("frcnn.exporter.engine.build_gpu.gpu_compute_capability", lambda: "9.0")
    assert main(arguments) == 0
    assert "that needs a GPU that it is for (this one has compute capability 9.0)" in capsys.readouterr().err

    called: list[str] = []
    monkeypatch.setattr("frcnn.exporter.engine.build_gpu.gpu_compute_capability", lambda: "8.9")
    monkeypatch.setattr("frcnn.benchmarks.commands.compare.run", lambda options: called.append(options.command) or 1)
    assert main(arguments) == 1
    assert called == [shlex.join(["frcnn", *expected, "--images", "my images"])]


def test_the_command_that_verify_prints_is_accepted_by_compare(checkpoint, exported_before, tmp_path, capsys):
    output = tmp_path / "m.frcnn"
    assert main(from_checkpoint(checkpoint, "-o", str(output), "--verify", str(tmp_path / "none"))) == 0
    command = capsys.readouterr().err.strip().partition("where there is one: frcnn ")[2]
    assert main(shlex.split(command)) == 2
    assert "usage:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        (
            ["-o", "model.plan"],
            "error: -o: expected a file name ending in .frcnn, got model.plan",
            "-o model.plan.frcnn",
        ),
        (["--precision", "bf16"], "is typed in fp32, which its engine keeps; got bf16", "CHECKPOINT --precision bf16"),
        (
            ["--arch", "models.py:build"],
            "error: --arch goes with a checkpoint, got the ONNX model",
            "give the checkpoint",
        ),
        (["--labels", "x"], "error: --labels goes with a checkpoint", "give the checkpoint"),
        (["--verify", "x"], "error: --verify compares with a checkpoint, got none", "from the checkpoint"),
        (["--size", "100x100"], "error: --size: expected multiples of 32, got 100x100", "128x128"),
        (["--form", "plan"], "error: --form goes with --target tensorrt, got tensorrt-rtx", "leave it out"),
        (["--kernel-arch", "sm_5"], "error: kernel architecture: expected some of", "compute_75"),
        (
            ["--kernel-arch", "sm_89,sm_90"],
            "error: --kernel-arch sm_90: TensorRT-RTX serves GPUs of compute capability 7.5, 8.0, 8.6, 8.9, 12.0, "
            "12.1 and later, not 9.0",
            "hint: for such a GPU build with ONNX Runtime, frcnn build model.onnx --target onnxruntime, or on it with "
            "TensorRT: frcnn build model.onnx --target tensorrt",
        ),
        (["--optimization-level", "9"], "error: --optimization-level: expected 0 to 5, got 9", ""),
    ],
)
def test_invalid_options_are_one_line_and_a_hint(more, message, hint, exports, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["build", str(exports("vgg16").path), "--target", "tensorrt-rtx", *more]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert hint in printed.err
    assert len(printed.err.splitlines()) <= 2
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target", "tensorrt"], "found none"),
        (["--target", "tensorrt-rtx", "--compute-capability", "9.0"], "9.0: TensorRT-RTX serves GPUs of"),
        (["--target", "tensorrt-rtx", "--compute-capability", "8.9,10.0"], "10.0: TensorRT-RTX serves GPUs of"),
        (["--batch", "8:1:1"], "--batch: expected"),
        (["--size", "96"], "--size: expected HEIGHTxWIDTH"),
    ],
)
def test_what_cannot_be_built_is_refused_before_the_checkpoint_is_read(more, message, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("frcnn.exporter.engine.build_gpu.gpu_compute_capability", lambda: None)
    monkeypatch.setattr(build, "load_from_options", lambda _arguments: pytest.fail("the checkpoint was read"))
    assert main([*from_checkpoint(checkpoint), *more]) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_while_tensorrt_builds_leaves_nothing(exports, tmp_path):
    """In a process of its own, as a user would press it: once the first engine is on its way."""
    program = f"""
import sys
from frcnn.cli import main
from frcnn.exporter.engine import artifact as engine_artifact
whole = engine_artifact.build_artifact

def slow(source, path, request, *, progress):
    def told(what, share):
        progress(what, share)
        if what.startswith("building engine 1") and share > 0.15 and not announced:
            announced.append(1)
            print("building", flush=True)
            sys.stdin.readline()
    announced = []
    return whole(source, path, request, progress=told)

engine_artifact.build_artifact = slow
sys.exit(main(["build", {str(exports("vgg16").path)!r}, "-o", "model.frcnn", "--target", "tensorrt-rtx", *{QUICK!r}]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        out, err = process.communicate("go on\n", timeout=120)
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", "interrupted")
    assert not list(tmp_path.iterdir())


def test_help_names_the_targets_and_needs_nothing(capsys):
    assert VERBS["build"].module == build.__name__
    assert main(["build", "--help"]) == 0
    text: Any = capsys.readouterr().out
    assert summary(read_runs()) in " ".join(text.split())
    for word in (
        "tensorrt-rtx",
        "onnxruntime",
        "auto",
        "--form",
        "--batch",
        "--size",
        "--precision",
        "--kernel-arch",
        "--timing-cache",
        "model.onnx",
    ):
        assert word in text
