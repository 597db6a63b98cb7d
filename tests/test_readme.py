"""Every command and every piece of Python in the README runs.

Where the README means a user's own file, one of two stands in. The demo's checkpoint and images, whose network is its
own, so that a command without ``--arch`` gets one; and, for the other exports, a network of a few layers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from frcnn.cli import VERBS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "train_demo"
README = (ROOT / "README.md").read_text(encoding="utf-8")

NOT_RUN = {
    "make demo": "its commands are run one by one below; it installs into .venv itself",
    "pip install": "would change the environment under test",
    "frcnn export --weights": "downloads torchvision's weights; needs a network",
}

SMALL_MODEL = """
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign


def build(num_classes=3, **kwargs):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 16, 1), nn.ReLU())
    backbone.out_channels = 8
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((64, 128),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=TwoMLPHead(8 * 49, 16),
        box_predictor=FastRCNNPredictor(16, num_classes),
        rpn_post_nms_top_n_test=50,
        **kwargs,
    )
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


COMMANDS = [
    line.partition(" #")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


FIRST_EXPORT = next(command for command in COMMANDS if command.startswith("frcnn export"))
FIRST_BUILD = next(command for command in COMMANDS if command.startswith("frcnn build"))


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def with_stand_ins(command: str) -> str:
    """Replace what a user brings by what is here."""
    command = command.replace("--arch fasterrcnn_resnet50_fpn ", "--arch mypkg.models:build ")
    command = command.replace("--classes cat,dog", "--classes two,five,six")
    if " my.pth" in command and "--arch" not in command:
        command += " --arch mypkg.models:build"
    if command.startswith("frcnn bench"):
        command += " --budget 20 --compile-limit 0"  # minutes, as a reader runs it
    return command


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``frcnn …`` or ``python …`` with this interpreter and this tree."""
    program, *arguments = shlex.split(command)
    start = {"frcnn": [sys.executable, "-m", "frcnn"], "python": [sys.executable]}[program]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(folder)]), COLUMNS="160")
    done = subprocess.run(
        [*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README supposes it, and ``model.onnx`` made by its first command."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(DEMO / "digits.pth", folder / "my.pth")
    shutil.copy(DEMO / "labels.txt", folder / "labels.txt")
    (folder / "mypkg").mkdir()
    shutil.copy(DEMO / "model.py", folder / "mypkg" / "models.py")
    run(f"python {shlex.quote(str(DEMO / 'scenes.py'))} --count 4 --seed 7 -o scenes", folder)
    images = sorted((folder / "scenes" / "images").iterdir())
    shutil.copy(images[0], folder / "photo.jpg")
    (folder / "folder").mkdir()
    for image in images:
        shutil.copy(image, folder / "folder")
    shutil.copy(folder / "scenes" / "instances.json", folder)
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (320, 240))
    for shift in range(3):
        frame = Image.open(images[0]).convert("RGB").resize((320, 240))
        video.write(np.roll(np.asarray(frame)[:, :, ::-1], 8 * shift, axis=1))
    video.release()
    done = run(with_stand_ins(FIRST_EXPORT), folder)
    assert done.stdout.startswith("read off the weights:")
    return folder


@pytest.fixture(scope="module")
def small_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of a small network of two classes."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "mypkg").mkdir()
    (folder / "mypkg" / "models.py").write_text(SMALL_MODEL)
    save = "import torch, mypkg.models; torch.manual_seed(0); torch.save(mypkg.models.build().state_dict(), 'my.pth')"
    run(f"python -c {shlex.quote(save)}", folder)
    Image.effect_noise((320, 240), 80).convert("RGB").save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command: str, request: pytest.FixtureRequest) -> None:
    why = reason_not_to_run(command)
    if why is not None:
        pytest.skip(why)
    if command.startswith("frcnn export") and command != FIRST_EXPORT:
        folder = request.getfixturevalue("small_desk")
        done = run(with_stand_ins(command), folder)
        assert "wrote model.onnx" in done.stdout
        return
    if command.startswith("frcnn build my.pth"):
        done = run(with_stand_ins(command), request.getfixturevalue("small_desk"))
        assert "convolutions and matrix products in fp16" in done.stdout
        return
    folder = request.getfixturevalue("desk")
    if command == FIRST_EXPORT:
        assert (folder / "model.onnx").is_file()
        return
    if "model.frcnn" in command and command != FIRST_BUILD and not (folder / "model.frcnn").exists():
        run(FIRST_BUILD, folder)
    done = run(with_stand_ins(command), folder)
    if command.startswith("frcnn compare"):
        assert "AGREE: " in done.stdout.replace("DISAGREE", "")
    if command.startswith("frcnn bench"):
        assert {file.name for file in (folder / "report").iterdir()} >= {"results.json", "report.md", "report.html"}
    if command.startswith("frcnn profile"):
        assert "backbone" in done.stdout and "slowest 20 of" in done.stdout
        assert (folder / "profile.html").read_text().startswith("<!doctype html>")
    if command.startswith("frcnn eval"):
        measured = json.loads((folder / "map.json").read_text())
        assert measured["AP50"] > 0.5
        assert measured["eager"]["AP50"] == pytest.approx(measured["AP50"], abs=1e-3)
    if command.startswith("frcnn detect"):
        found = json.loads((folder / "out.json").read_text())
        assert {"image_id", "category_id", "bbox", "score", "file_name"} <= found[0].keys()
        assert {"photo.jpg", "clip.mp4"} <= {entry["file_name"] for entry in found}
        assert {"photo.jpg", "clip.mp4"} < {path.name for path in (folder / "out").iterdir()}


def test_every_verb_and_every_exit_code_is_in_the_readme() -> None:
    assert {command.split()[1] for command in COMMANDS if command.startswith("frcnn")} == set(VERBS)
    assert re.findall(r"^\| ([0-9, ]+) \|", README, re.MULTILINE) == ["0", "1", "2", "130, 143", "141"]


def test_the_python_of_the_readme_runs(small_desk: Path) -> None:
    code, build, on_a_gpu = blocks("python")
    compile(on_a_gpu, "README.md", "exec")
    load = 'load_checkpoint("my.pth")'
    assert load in code
    code = code.replace(load, 'load_checkpoint("my.pth", arch="mypkg.models:build")')
    (small_desk / "readme.py").write_text(code)
    first, second = run("python readme.py", small_desk).stdout.splitlines()
    assert first == second
    name, count = first.split()
    assert name == "photo.jpg"
    assert int(count) > 0
    (small_desk / "readme.py").write_text(build)
    assert run("python readme.py", small_desk).stdout == "tensorrt-rtx 800x1344 1344x800\n"


def test_the_commands_of_make_demo_run(desk: Path) -> None:
    """All but the export: the README's first command has exported the same checkpoint."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    places = {"$(BIN)/": "", "$(DEMO)": shlex.quote(str(DEMO)), "$(OUT)": "demo", "--count 12": "--count 3"}
    (desk / "demo").mkdir()
    shutil.copy(desk / "model.onnx", desk / "demo")
    verbs = []
    for line in recipe[1].splitlines():
        command = line.strip()
        for theirs, here in places.items():
            command = command.replace(theirs, here)
        assert "$" not in command
        if command.startswith("@echo") or command.startswith("frcnn export"):
            continue
        verbs.append(command.split()[1])
        run(command, desk)
    assert verbs[1:] == ["inspect", "detect", "compare"]
    assert len(list((desk / "demo" / "annotated").iterdir())) == 3


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_files_that_security_names_are_there() -> None:
    named = re.findall(r"`([\w./-]+\.(?:py|lock|toml))`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_the_extras_of_the_readme_are_those_there_are() -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = README.partition("| extra |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(there)
