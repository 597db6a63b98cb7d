"""``frcnn try``, end to end, on the tiny model; its export is the one that all tests share."""

from __future__ import annotations

import argparse
import html
import json
import shlex
import shutil
import sys
import webbrowser
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support import tiny_detector
from support.tiny_detector import build, noise

from frcnn.benchmarks.commands import try_
from frcnn.benchmarks.trial import trial
from frcnn.cli import VERBS, main
from frcnn.console import Steps
from frcnn.runtime import Detector
from frcnn.runtime.model_files.artifact import open_artifact

ARCH = ["--arch", f"{tiny_detector.__file__}:build"]


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``my model.pth``, and ``photos`` with three images."""
    torch.save(build().state_dict(), tmp_path / "my model.pth")
    (tmp_path / "photos").mkdir()
    for index in range(3):
        Image.fromarray(noise(index, 40, 48)).save(tmp_path / "photos" / f"{index}.png")

    def exported(_loaded: object, path: Path, **_options: object) -> object:
        shutil.copy(tiny_model, path)
        return open_artifact(path).manifest

    monkeypatch.setattr(try_, "export_loaded", exported)
    monkeypatch.setattr(trial, "_ROUNDS", 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trying(desk: Path) -> Callable[..., int]:
    def run(*options: str, images: str = "photos") -> int:
        return main(["try", "my model.pth", *ARCH, "--images", images, "--budget", "60", "-o", "first look", *options])

    return run


def results(folder: str = "first look") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "results.json").read_text())
    return found


def copy_some(annotated: Path, folder: str) -> None:
    """Copy five of the annotated images; the others are missing."""
    Path(folder).mkdir()
    for image in sorted((annotated / "images").iterdir())[:5]:
        shutil.copy(image, folder)


def parsed(command: str) -> argparse.Namespace:
    """Parse a command as ``frcnn`` does."""
    program, name, *arguments = shlex.split(command)
    assert program == "frcnn"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    import_module(VERBS[name].module).add_arguments(parser)
    return parser.parse_intermixed_args(arguments)


def test_everything_is_in_one_folder_and_the_last_line_says_what_is_next(trying, capsys):
    assert trying() == 0
    folder, (out, err) = Path("first look"), capsys.readouterr()
    assert {path.name for path in folder.iterdir()} == {
        *("model.onnx", "index.html", "annotated", "detections.json", "results.json")
    }
    assert sorted(path.name for path in (folder / "annotated").iterdir()) == ["0.png", "1.png", "2.png"]
    verdict, page = out.splitlines()
    assert verdict.startswith("AGREE: ") and page == "page: first look/index.html"
    assert (
        err.splitlines()[-1]
        == "next: frcnn detect 'first look/model.onnx' photos -o 'first look/detected' --json 'first look/all.json'"
    )
    assert "A quick measurement; frcnn bench makes one to quote.\n" in err and "\x1b" not in err
    found = results()
    assert found["agrees"] and found["images"] == {"seen": 3, "of": 3}
    assert found["model"]["ratio"]["rounds"] == len(found["eager"]["rounds_ms"]) >= 1
    files = {entry["file_name"] for entry in json.loads((folder / "detections.json").read_text())}
    assert files == {f"photos/{index}.png" for index in range(3)}


def test_every_step_has_a_name(trying, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(Steps, "__call__", lambda _step, what, share=None: told.append(what))
    assert trying() == 0
    named = [what for what, before in zip(told, ["", *told], strict=False) if what != before]
    assert named[-4:] == ["reading images", "loading model.onnx", "detecting with both, at most 60 s", "drawing"]
    assert len(named) > 4  # reading the checkpoint tells more


def test_a_second_trial_into_the_same_folder_replaces_the_first(trying):
    assert trying() == 0
    Path("photos/2.png").unlink()
    assert trying() == 0
    assert results()["images"]["seen"] == 2


def test_the_page_tells_it_in_order_and_loads_nothing(trying):
    assert trying() == 0
    page = Path("first look/index.html").read_text()
    titles = ["What it finds", "Agreement", "Speed", "What was read and assumed", "What to run next"]
    places = [page.index(f'-title">{title}</h2>') for title in titles]
    assert places == sorted(places)
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page
    assert page.count('src="data:image/jpeg;base64,') == 3
    shown = html.unescape(page)
    assert results()["read"] and all(line.partition(": ")[2] in shown for line in results()["read"])
    assert all(shlex.split(command) and command in shown for command in results()["next"])


def test_names_of_files_are_no_html(trying):
    Path("photos/2.png").rename("photos/<img src=x onerror=alert(1)>.png")
    assert trying() == 0
    page = Path("first look/index.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;.png" in page


@pytest.mark.parametrize("more", [(), ("--annotations", "it's.json")])
def test_what_is_next_can_be_run(trying, annotated_noise, more):
    copy_some(annotated_noise, "an image's folder")
    shutil.copy(annotated_noise / "instances.json", "it's.json")
    assert trying(*more, images="an image's folder") == 0
    commands = [parsed(command) for command in results()["next"]]
    verbs = [shlex.split(command)[1] for command in results()["next"]]
    assert verbs == ["detect", "compare", "bench", "tune", *(["eval"] if more else []), "quantize"]
    for arguments in commands:
        assert Path(getattr(arguments, "model", None) or arguments.artifacts[0]) == Path("first look/model.onnx")
        inputs = getattr(arguments, "images", None) or arguments.inputs
        assert [*map(str, [inputs] if isinstance(inputs, Path) else inputs)] == ["an image's folder"]
    assert [str(commands[place].checkpoint) for place in (1, 2)] == ["my model.pth"] * 2
    assert main(shlex.split(results()["next"][1])[1:]) == 0


def test_other_weights_disagree_and_compare_comes_first(trying, capsys):
    model = build()
    with torch.no_grad():
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(1.05)
    torch.save(model.state_dict(), "my model.pth")
    assert trying() == 1
    out, err = capsys.readouterr()
    assert out.startswith("The detections DISAGREE: boxes differ by up to")
    assert err.splitlines()[-1].startswith("next: frcnn compare 'my model.pth' 'first look/model.onnx' --images photos")
    assert not results()["agrees"]


def test_ctrl_c_keeps_what_was_seen(trying, monkeypatch, capsys):
    calls, detect = [], Detector.__call__

    def stopping(self: Detector, images: Any, **options: Any) -> Any:
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(self, images, **options)

    monkeypatch.setattr(Detector, "__call__", stopping)
    assert trying() == 130
    assert "Interrupted: " in Path("first look/index.html").read_text()
    assert results()["partial"] and 1 <= results()["images"]["seen"] < 3
    assert capsys.readouterr().err.splitlines()[-2].startswith("next: ")  # then: interrupted


def test_annotated_images_are_scored(trying, annotated_noise):
    copy_some(annotated_noise, "some")
    assert trying("--annotations", str(annotated_noise / "instances.json"), images="some") == 0
    accuracy = results()["accuracy"]
    assert accuracy["AP"] == accuracy["eager"]["AP"] > 0.9  # the truth is what the model finds
    assert "COCO&#39;s box measure on 5 images with" in Path("first look/index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exif", "stored"], "--exif goes with --annotations only"),
        (["--annotations", "a.json"], "--annotations: expected one --images FOLDER"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_work(desk, options, message, capsys):
    assert main(["try", "my model.pth", *ARCH, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("frcnn-try").exists()


@pytest.mark.parametrize("package", ["torch", "jinja2"])
def test_a_missing_package_is_one_error_with_the_extra(desk, package, monkeypatch, capsys):
    monkeypatch.setattr(try_, "find_spec", lambda name: None if name == package else object())
    assert main(["try"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: frcnn try needs the package '{package}', which is not installed"
    assert hint == "hint: pip install 'frcnn[bench]'"


@pytest.mark.parametrize(
    ("is_terminal", "display", "options", "opens"),
    [(True, ":0", (), True), (True, ":0", ("--no-open",), False), (True, "", (), False), (False, ":0", (), False)],
)
def test_the_page_opens_where_somebody_can_see_it(trying, is_terminal, display, options, opens, monkeypatch, capsys):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert trying(*options) == 0
    assert opened == ([(Path("first look/index.html").resolve()).as_uri()] if opens else [])


def test_without_images_those_that_frcnn_brings_along_are_taken(desk, capsys):
    assert main(["try", "my model.pth", *ARCH, "--budget", "60"]) == 0
    assert results("frcnn-try")["images"]["of"] == 12
    assert results("frcnn-try")["accuracy"] is None  # the model's classes are others


@pytest.mark.slow
def test_without_a_checkpoint_the_bundled_one_is_tried(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["try", "--budget", "5"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("AGREE: ") and err.endswith("next: frcnn try my.pth --images folder/\n")
    found = results("frcnn-try")
    assert found["accuracy"]["AP50"] > 0.7 and found["accuracy"]["difference"]["AP"] == pytest.approx(0, abs=1e-4)
    assert main(shlex.split(next(command for command in found["next"] if " compare " in command))[1:]) == 0
