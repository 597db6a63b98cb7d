"""``frcnn detect`` and the tuned file beside the model."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from support.tuned import SETTING, a_machine, write_as_int8, write_tuned

from frcnn.cli import main
from frcnn.runtime import detector, loading

CHOICE = msgspec.structs.replace(SETTING, threads=1, batch=2)


@pytest.fixture
def model(model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(model_path, tmp_path / "model.onnx"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What detect loads, and how many images it takes at a time."""
    told: dict[str, object] = {}
    load, stream = loading.load_onnx, detector.Detector.stream_images

    def load_and_tell(artifact, **options):
        told.update(options, file=artifact.path.name)
        return load(artifact, **options)

    def stream_and_tell(self, images, **options):
        told["batch_size"] = options["batch_size"]
        return stream(self, images, **options)

    monkeypatch.setattr(loading, "load_onnx", load_and_tell)
    monkeypatch.setattr(detector.Detector, "stream_images", stream_and_tell)
    return told


def test_detect_uses_the_choice_and_says_so_in_one_line(model: Path, image_file, seen, capsys) -> None:
    path = write_tuned(model, CHOICE)
    assert main(["detect", str(model), str(image_file("a.png", 250))]) == 0
    assert f"tuned: ONNX Runtime, fp32, 1 thread, batch 2 ({path})\n" in capsys.readouterr().err
    assert seen == {"provider": "cpu", "precision": None, "threads": 1, "file": model.name, "batch_size": 2}


@pytest.mark.parametrize("options", [["--provider", "cpu"], ["--threads", "1"], ["--device", "cpu"]])
def test_an_option_wins_without_a_word(model: Path, image_file, seen, capsys, options: list[str]) -> None:
    write_as_int8(model, model.with_name("model-int8.onnx"))
    write_tuned(model, msgspec.structs.replace(CHOICE, int8=True), allowed=["int8"])
    assert main(["detect", str(model), str(image_file("a.png", 250)), *options]) == 0
    assert "tuned" not in capsys.readouterr().err
    assert (seen["file"], seen["batch_size"]) == (model.name, 1)


def test_an_int8_choice_is_used_where_it_was_allowed(model: Path, image_file, seen, capsys) -> None:
    write_as_int8(model, model.with_name("model-int8.onnx"))
    write_tuned(model, msgspec.structs.replace(CHOICE, int8=True), allowed=["int8"])
    arguments = ["detect", str(model), str(image_file("a.png", 250)), "--batch-size", "1"]
    assert main(arguments) == 0
    assert "tuned: ONNX Runtime, int8, 1 thread" in capsys.readouterr().err
    assert (seen["file"], seen["batch_size"]) == ("model-int8.onnx", 1)


def test_a_void_file_is_named_with_what_helps(model: Path, image_file, seen, capsys) -> None:
    write_tuned(model, CHOICE, machine=a_machine())
    assert main(["detect", str(model), str(image_file("a.png", 250))]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tuned" in line]
    assert "it was measured on another machine: CPU, here " in line
    assert line.endswith(f": frcnn tune {model}")
    assert (seen["threads"], seen["batch_size"]) == (None, 1)


def test_a_damaged_file_is_an_error_of_two_lines(model: Path, image_file, capsys) -> None:
    Path(f"{model}.tuned.json").write_text("{")
    assert main(["detect", str(model), str(image_file("a.png", 250))]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {model}.tuned.json: the tuning is damaged")
    assert hint == "hint: run frcnn tune again, or remove the file"
    assert main(["detect", str(model), str(image_file("a.png", 250)), "--provider", "cpu"]) == 0


def test_the_tuned_provider_can_be_asked_for(model: Path, image_file, seen, capsys) -> None:
    arguments = ["detect", str(model), str(image_file("a.png", 250)), "--provider", "tuned"]
    assert main(arguments) == 0
    assert "warning: provider 'tuned': there is no " in capsys.readouterr().err
    write_tuned(model, CHOICE)
    assert main(arguments) == 0
    assert "tuned: ONNX Runtime, fp32, 1 thread, batch 2" in capsys.readouterr().err
    assert seen["batch_size"] == 2
