"""The options of the export are taken from the model file, but never code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from support.engine_files import source_manifest, write_engine_file

from frcnn.benchmarks.commands.reference import with_options_of_export
from frcnn.cli import main
from frcnn.errors import ArtifactError, UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments
from frcnn.spec import CheckpointOptions, Manifest

FAMILY = "resnet18_fpn_max"
MODEL = Path("model.frcnn")
KNOWN = CheckpointOptions(
    arch="fasterrcnn_resnet50_fpn", args=("norm_eps=1e-05", "rpn_anchor_sizes=((8,), (16,))"), state_key="ema"
)


def manifest(**options: Any) -> Manifest:
    made = CheckpointOptions(**options) if options else None
    return msgspec.structs.replace(source_manifest(), checkpoint_options=made)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def with_manifest(arguments: argparse.Namespace, **options: Any) -> argparse.Namespace:
    write_engine_file(MODEL, source=manifest(**options))
    return with_options_of_export(arguments, [MODEL])


def parse(*words: str, command: str = "frcnn compare my.pth model.frcnn") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_checkpoint_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args(["my.pth", *words])), command=command)


def taken(*words: str, kept: CheckpointOptions = KNOWN) -> tuple[str | None, list[str], str | None]:
    made = with_manifest(parse(*words), **msgspec.structs.asdict(kept))
    return made.arch, made.args, made.state_key


def test_the_options_of_the_export_are_taken_and_told(capsys):
    assert taken() == (KNOWN.arch, [*KNOWN.args], "ema")
    captured = capsys.readouterr()
    assert captured.out == ""
    told = "--arch fasterrcnn_resnet50_fpn --arg norm_eps=1e-05 --arg 'rpn_anchor_sizes=((8,), (16,))' --state-key ema"
    assert " ".join(captured.err.split()) == f"{told}: as model.frcnn was exported"


def test_an_option_that_is_given_wins(capsys):
    words = ("--arch", "fasterrcnn_resnet50_fpn", "--arg", "norm_eps=0.00001", "--state-key", "model")
    arch, args, state_key = taken(*words)
    assert (arch, state_key) == (KNOWN.arch, "model")
    assert sorted(args) == ["norm_eps=0.00001", KNOWN.args[1]]
    assert "--arch" not in capsys.readouterr().err


def test_another_architecture_has_arguments_of_its_own(capsys):
    assert taken("--arch", "models.py:build") == ("models.py:build", [], None)
    assert capsys.readouterr().err == ""


def test_another_value_contradicts_the_file():
    with pytest.raises(ArtifactError, match=r"exported with --arg norm_eps=1e-05, got 0\.0"):
        taken("--arg", "norm_eps=0.0")


def test_a_file_without_options_changes_nothing(capsys):
    arguments = parse("--arg", "min_size=320")
    assert with_manifest(arguments) is arguments
    assert capsys.readouterr().err == ""


def test_trust_is_never_taken_from_a_file():
    fields = {"arch", "args", "state_key", "trainer", "config", "boxes_only"}
    assert set(CheckpointOptions.__struct_fields__) == fields
    assert not with_manifest(parse(), state_key="ema").trust_pickle


@pytest.mark.parametrize("arch", ["models.py:build", "mypkg.models:build", "os:system"])
def test_code_is_not_run_because_a_file_names_it(arch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UsageError, match="is not run because a file names it") as error:
        taken(kept=CheckpointOptions(arch=arch, args=("command='rm'",)))
    assert error.value.hint == f"if you trust it: frcnn compare my.pth model.frcnn --arch {arch}"


def test_the_configuration_of_the_export_is_sought_here_and_beside_the_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--config config\.yaml, which is neither here nor beside the checkpoint"):
        with_manifest(parse(), config="config.yaml")
    assert with_manifest(parse("--config", "mine.yaml"), config="config.yaml").config == Path("mine.yaml")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.yaml").touch()
    arguments = parse()
    arguments.checkpoint = tmp_path / "elsewhere" / "my.pth"
    taken_up = with_manifest(arguments, config="../../config.yaml", trainer="detectron2", boxes_only=True)
    assert taken_up.config == tmp_path / "elsewhere" / "config.yaml"
    assert (taken_up.trainer, taken_up.boxes_only) == ("detectron2", True)
    assert "--from detectron2 --config" in capsys.readouterr().err


def test_the_line_to_go_on_with_finds_the_code_beside_the_checkpoint(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "models.py").touch()
    arguments = parse()
    arguments.checkpoint = folder / "my.pth"
    with pytest.raises(UsageError) as error:
        with_manifest(arguments, arch="models.py:build")
    assert error.value.hint.endswith(f"--arch {folder / 'models.py'}:build")


def test_code_that_is_given_takes_its_arguments_from_the_file(tmp_path):
    kept = CheckpointOptions(arch="models.py:build", args=("width=64",))
    arch = str(tmp_path / "models.py:build")
    assert taken("--arch", arch, kept=kept) == (arch, ["width=64"], None)


def test_of_several_files_the_first_that_tells_counts(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    paths = [tmp_path / "broken.onnx"]
    for name, options in (("plain", {}), ("first", {"state_key": "ema"}), ("second", {"state_key": "model"})):
        (tmp_path / name).mkdir()
        paths.append(write_engine_file(tmp_path / name / "model.frcnn", source=manifest(**options)))
    assert with_options_of_export(parse(), paths).state_key == "ema"
    arguments = parse()
    assert with_options_of_export(arguments, paths[:2]) is arguments


@pytest.fixture
def exported_with(exports, tmp_path):
    """Write a model.onnx whose manifest has options, and an empty folder of images and a checkpoint beside it."""

    def write(**options: Any) -> Path:
        export = exports(FAMILY)
        model = onnx.load(export.path)
        (entry,) = model.metadata_props
        kept = CheckpointOptions(**options)
        entry.value = msgspec.structs.replace(export.manifest, checkpoint_options=kept).to_json()
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


@pytest.mark.parametrize("verb", ["compare", "bench", "eval"])
def test_every_verb_takes_them(verb, exported_with, checkpoint, images, tmp_path, capsys):
    model = exported_with(arch="fasterrcnn_resnet18_fpn", args=("min_size=160",))
    command = [verb, checkpoint, model, "--images", images, "--arg", "min_size=161"]
    if verb == "eval":
        annotations = tmp_path / "instances.json"
        item = '{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}'
        files, classes = '{"id": 1, "file_name": "0.png"}', '{"id": 1, "name": "1"}'
        annotations.write_text(f'{{"images": [{files}], "annotations": [{item}], "categories": [{classes}]}}')
        command = [verb, model, "--checkpoint", checkpoint, "--images", images, "--arg", "min_size=161"]
        command += ["--annotations", annotations, "--map", "1=1"]
    assert main(list(map(str, command))) == 2
    assert "it was exported with --arg min_size=160, got 161" in " ".join(capsys.readouterr().err.split())


def test_a_model_file_of_a_stranger_runs_nothing(exported_with, checkpoint, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text("open('ran', 'w').close()\ndef build(**arguments): ...\n")
    model = exported_with(arch="models.py:build")
    assert main(["compare", str(checkpoint), str(model), "--images", str(images)]) == 2
    assert not (tmp_path / "ran").exists()
    assert "if you trust it: frcnn compare" in " ".join(capsys.readouterr().err.split())
    assert main(["compare", str(checkpoint), str(model), "--images", str(images), "--arch", "models.py:build"]) == 2
    assert (tmp_path / "ran").exists(), "the test can see that code runs"
