"""``frcnn quantize``, end to end on the tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import environment

from frcnn.cli import main
from frcnn.runtime.model_files.artifact import open_artifact

WIDTH = 80


@pytest.fixture
def command(tiny_model, annotated_noise, tmp_path) -> Callable[..., list[str]]:
    """Return a command line with more options."""

    def with_options(*more: object, annotations: Path | None = annotated_noise / "instances.json") -> list[str]:
        words = ["quantize", tiny_model, "--images", annotated_noise / "images", "-o", tmp_path / "out" / "int8.onnx"]
        if annotations is not None:
            words += ["--annotations", annotations]
        return [str(word) for word in (*words, "--threads", 1, *more)]

    return with_options


def test_it_prints_a_table_and_writes_the_file(command, tmp_path, capsys):
    assert main(command("--max-drop", 100, "--calibration", 8, "--gate", 10)) == 0
    captured = capsys.readouterr()
    assert all(len(line) <= WIDTH for line in captured.out.splitlines() if str(tmp_path) not in line)
    assert "gate: 10 images with " in captured.out and "none of the 8 that were calibrated on" in captured.out
    assert all(
        row in captured.out for row in ("AP50", "file", "an image, roughly", "float32: prediction layers, 4 layers")
    )
    assert "HOLDS: AP falls by" in captured.out
    assert captured.out.endswith(f"wrote {tmp_path / 'out' / 'int8.onnx'}\n")
    assert "8 images to calibrate on, 10 others for the gate" in captured.err
    assert open_artifact(tmp_path / "out" / "int8.onnx").manifest.precision == "int8"


@pytest.mark.usefixtures("impassable")
def test_a_gate_that_does_not_hold_is_exit_code_1_and_no_file(command, tmp_path, capsys):
    assert main(command("--max-drop", 0, "--json", tmp_path / "report.json")) == 1
    out = capsys.readouterr().out
    assert all(len(line) <= WIDTH for line in out.splitlines() if str(tmp_path) not in line)
    assert "DOES NOT HOLD: AP falls by" in out and "at most 0 are allowed" in out
    assert "what it recovers, in AP points, on 4 images" in out
    assert out.endswith("int8.onnx was not written\n")
    assert not list((tmp_path / "out").iterdir())
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["passed"]
    assert report["environment"]["command"].startswith("frcnn quantize ")
    assert [len(attempt["float_groups"]) for attempt in report["attempts"][:3]] == [0, 1, 2]


def test_without_annotations_it_says_that_this_is_the_weaker_proof(command, capsys):
    main(command(annotations=None))
    out = capsys.readouterr().out
    assert re.search(r"detections are missing or relabelled, \d+% may be; .* have moved, \d+% may have", out)
    assert "--annotations" in out and "weaker proof" in out


@pytest.mark.parametrize("words", [("--map", "a=b"), ("--allow-unmapped",), ("--skip-invalid",), ("--exif", "stored")])
def test_what_goes_with_annotations_is_refused_without(words, command, capsys):
    assert main(command(*words, annotations=None)) == 2
    assert f"error: {words[0]} goes with --annotations only" in capsys.readouterr().err


def test_json_on_standard_output_is_alone_there_and_invalid_annotations_may_be_left_out(
    command, annotated_noise, tmp_path, capsys
):
    document = json.loads((annotated_noise / "instances.json").read_text())
    document["annotations"].append(document["annotations"][0] | {"bbox": [1, 2, 3, -4]})
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    assert main(command("--max-drop", 100, "--json", "-", "--skip-invalid", annotations=path)) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["proof"] == "accuracy"
    assert "wrote " in captured.err and "1 annotations are invalid and are left out: annotations[" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibration", "3"], "--calibration: expected 4 or more, got 3"),
        (["--gate", "0"], "--gate: expected 4 or more, got 0"),
        (["--max-drop", "-1"], "--max-drop: expected a number from 0 to 100, got -1"),
        (["-o", "int8.frcnn"], "-o: expected a file name ending in .onnx, got int8.frcnn"),
        (["--map", "1"], "--map: expected MODEL=ANNOTATION, got '1'"),
        (["--json", "."], "cannot write .: it is a folder"),
    ],
)
def test_invalid_options_are_refused(options, message, command, capsys):
    assert main(command(*options)) == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}]}, "are no class"),
        ({"images": [{"id": i, "file_name": f"other{i}.png"} for i in range(24)]}, "none of the 24 images"),
        ({"annotations": []}, "has no objects of the model's classes: there is nothing to measure against"),
        (
            {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, -4]}]},
            "bbox is [1, 2, 3, -4]: Expected",
        ),
    ],
)
def test_annotations_that_do_not_fit_are_refused(change, message, command, annotated_noise, tmp_path, capsys):
    document = json.loads((annotated_noise / "instances.json").read_text())
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document | change))
    assert main(command(annotations=path)) == 2
    err = capsys.readouterr().err
    assert message in err and "hint: " in err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_file_and_no_temporary_folder(number, code, command, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "frcnn", *command("--max-drop", 0)],
        env=environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(temporary.glob("*/int8.onnx")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not list(temporary.iterdir())
    assert not list((tmp_path / "out").iterdir())
