"""``frcnn tune``, end to end, and what compare and eval make of its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from support.engine_files import write_engine_file
from support.tuned import SETTING, write_as_int8, write_tuned

from frcnn.benchmarks.commands.tune import parse_allowed
from frcnn.cli import main
from frcnn.errors import UsageError
from frcnn.runtime import Detector
from frcnn.spec.tuning import Tuning

FAMILIES_FILE = Path(__file__).parents[2] / "support" / "families.py"
FAMILY = "resnet18_fpn_max"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_model, tmp_path / "model.onnx"))


def tune(model: Path, images: Path, *options: object) -> int:
    return main(["tune", str(model), "--images", str(images), "--budget", "4", *map(str, options)])


def read(model: Path) -> Tuning:
    path = Path(f"{model}.tuned.json")
    return Tuning.from_json(path.read_bytes(), source=str(path))


@pytest.mark.slow
def test_the_choice_is_printed_written_and_used(model: Path, images: Path, tmp_path: Path, capsys) -> None:
    write_as_int8(model, tmp_path / "model-int8.onnx")
    assert tune(model, images, "--allow", "int8,bf16", "--json", tmp_path / "all.json") == 0
    out = capsys.readouterr().out
    tuning = read(model)
    assert f"fastest here: {tuning.describe(tuning.choice)}: " in out
    assert f"wrote {model}.tuned.json" in out
    table = out.replace(tuning.machine.processor, "AMD EPYC")  # some have longer names
    assert max(map(len, table.splitlines()[:3])) <= 80
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads(msgspec.json.encode(tuning))
    assert tuning.trials[0].setting.provider == "cpu" and tuning.trials[0].median_ms
    assert {trial.setting.int8 for trial in tuning.trials} == {False, True}
    with Detector.load(model, provider="tuned") as detector:
        assert len(detector([images / "0.png"])) == 1


def test_float32_is_all_that_is_tried_unless_more_is_allowed(model: Path, images: Path, tmp_path: Path) -> None:
    write_as_int8(model, tmp_path / "model-int8.onnx")
    assert tune(model, images) == 0
    tuning = read(model)
    assert (tuning.allowed, tuning.int8) == ((), None)
    assert {trial.setting.precision for trial in tuning.trials} == {"fp32"}


def test_one_provider_is_enough(model: Path, images: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "frcnn.benchmarks.commands.tune.find_spec", lambda name: None if name == "openvino" else find(name)
    )
    assert tune(model, images, "--allow", "int8") == 0
    captured = capsys.readouterr()
    assert "OpenVINO is not installed" in captured.err
    assert "int8 is not tried: there is no " in captured.err and "frcnn quantize" in captured.err
    tuning = read(model)
    assert {trial.setting.provider for trial in tuning.trials} == {"cpu"}
    assert tuning.versions.keys() == {"frcnn", "onnxruntime"}


def test_an_interrupt_leaves_what_was_there(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_tuned(model, SETTING).read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("frcnn.benchmarks.tuning.search.measure_groups", interrupted)
    monkeypatch.setattr("frcnn.benchmarks.tuning.search.Search._screen", interrupted)
    assert tune(model, images) == 130
    assert Path(f"{model}.tuned.json").read_bytes() == before
    assert {file.name for file in model.parent.iterdir()} == {"model.onnx", "model.onnx.tuned.json", "images"}


def test_a_folder_that_cannot_be_written_still_gets_the_table(
    model: Path, images: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frcnn.files.os.access", lambda *_: False)
    assert tune(model, images) == 2
    captured = capsys.readouterr()
    assert "fastest here: " in captured.out
    assert "error: cannot write into the folder" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--allow", "fp16"], "--allow: expected precisions of bf16, int8, got fp16"),
        (["--int8", "other.onnx"], "--int8 goes with --allow int8 only"),
        (["--allow", "int8", "--int8", "nowhere/other.onnx"], "--int8: expected a file in the folder of"),
        (["--allow", "int8", "--int8", "{folder}/none.onnx"], "none.onnx: no such file"),
        (["--allow", "int8", "--int8", "{folder}/model.onnx"], "expected an int8 model, got fp32"),
        (["--budget", "0"], "--budget: expected a number from 1"),
        (["--images", "{folder}/nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_refused(model: Path, options: list[str], message: str, capsys) -> None:
    assert main(["tune", str(model), *(option.format(folder=model.parent) for option in options)]) == 2
    error, *hint = capsys.readouterr().err.splitlines()
    assert message in error and len(hint) <= 1


def test_an_artifact_of_engines_and_a_missing_model_are_refused(tmp_path: Path, capsys) -> None:
    engine = write_engine_file(tmp_path / "model.frcnn")
    assert main(["tune", str(engine)]) == 2
    assert "expected a model.onnx, got engines for a GPU" in capsys.readouterr().err
    assert main(["tune", str(tmp_path / "none.onnx")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_allowed_precisions_are_parsed_in_any_order() -> None:
    assert parse_allowed("int8, bf16") == ("bf16", "int8")
    assert parse_allowed("") == ()
    with pytest.raises(UsageError, match="got fp8"):
        parse_allowed("bf16,fp8")


@pytest.mark.slow
def test_compare_takes_the_limits_of_the_tuned_precision(exports, checkpoint, images, tmp_path, capsys) -> None:
    model = Path(shutil.copy(exports(FAMILY).path, tmp_path / "model.onnx"))
    write_as_int8(model, tmp_path / "model-int8.onnx")
    choice = msgspec.structs.replace(SETTING, int8=True, threads=1)
    write_tuned(model, choice, allowed=["int8"])
    arguments = ["compare", str(checkpoint), str(model), "--images", str(images)]
    arguments += ["--arch", f"{FAMILIES_FILE}:{FAMILY}", "--json", "-"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "tuned: ONNX Runtime, int8, 1 thread" in captured.err
    assert json.loads(captured.out)["limits"]["rule"] != "exact"
    assert main([*arguments, "--provider", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["limits"]["rule"] == "exact"
