"""Every command and every piece of Python in the README and on the pages of the documentation runs.

A block that cannot run has a comment in front of it that says why: ``<!-- not run: needs a network -->``.

Where a page means a user's own file, one of two stands in. The demo's checkpoint and images, whose network is its
own, so that a command without ``--arch`` gets one; and, for further exports, a network of a few layers.
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
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.made_once import made_once
from test_structure import MAY_IMPORT, PUBLIC, ROOM_MAY_IMPORT

from frcnn.benchmarks.trial import BUNDLE, CHECKPOINT
from frcnn.cli import VERBS
from frcnn.plugins import OPERATORS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DEMO = ROOT / "examples" / "train_demo"
README = ROOT / "README.md"
REFERENCE = DOCS / "reference"
GENERATED = {DOCS / "performance.md", DOCS / "reliability.md", REFERENCE / "gpu-support.md", REFERENCE / "zoo.md"}
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(set(DOCS.rglob("*.md")) - GENERATED)]
LINKED = [
    *PAGES,
    *sorted(GENERATED),
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "examples").rglob("*.md")),
]
MAX_README_LINES = 130

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


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    why_not_run: str | None


def blocks() -> Iterator[Block]:
    """Give the commands and the Python of all pages, in order."""
    pattern = r"^(?:<!-- not run: ([^\n]+) -->\n)?```(sh|python)\n(.*?)^```$"
    for page in PAGES:
        for why, language, text in re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            yield Block(page, language, text, why or None)


def commands() -> dict[str, list[str]]:
    """Return each command that is to run, with the pages that it is on."""
    found: dict[str, list[str]] = defaultdict(list)
    for block in blocks():
        if block.language == "sh" and block.why_not_run is None:
            for line in block.text.splitlines():
                if command := line.partition(" #")[0].strip():
                    found[command].append(str(block.page.relative_to(ROOT)))
    return found


COMMANDS = commands()
SCRIPTS = {
    page: [
        block.text for block in blocks() if (block.page, block.language) == (page, "python") and not block.why_not_run
    ]
    for page in PAGES
}
FIRST_EXPORT = next(command for command in COMMANDS if command.startswith("frcnn export"))
FIRST_BUILD = next(command for command in COMMANDS if command.startswith("frcnn build"))
DETECT_WITH_IDS = next(command for command in COMMANDS if "--annotations" in command and "detect" in command)


def with_stand_ins(text: str) -> str:
    """Replace what a user brings by what is here, in a command or in Python."""
    text = text.replace("--arch fasterrcnn_resnet50_fpn ", "--arch mypkg.models:build ")
    text = text.replace("--classes cat,dog", "--classes two,five,six")
    text = text.replace('load_checkpoint("my.pth")', 'load_checkpoint("my.pth", arch="mypkg.models:build")')
    if text.startswith("frcnn") and " my.pth" in text and "--arch" not in text:
        text += " --arch mypkg.models:build"
    if text.startswith("frcnn bench"):
        text += " --budget 20 --compile-limit 0"  # minutes, as a reader runs it
    if text.startswith("frcnn try"):
        text += " --budget 3"
    if text.startswith("frcnn tune"):
        text += " --budget 10"
    if "frcnn quantize" in text or "quantize_onnx(" in text:  # more images; of so few the AP is uncertain
        text = text.replace("folder/", "many/images/").replace("instances.json", "many/instances.json")
        text = text.replace('annotations="many', 'max_drop=5, annotations="many').replace("--for", "--max-drop 5 --for")
        text = re.sub(r"(?<=many/instances.json) -o", " --max-drop 5 -o", text)
    return text


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


def _make_desk(folder: Path) -> None:
    shutil.copy(CHECKPOINT, folder / "my.pth")
    shutil.copy(BUNDLE / "labels.txt", folder / "labels.txt")
    (folder / "mypkg").mkdir()
    shutil.copy(BUNDLE.parent / "digits.py", folder / "mypkg" / "models.py")
    run(f"python {shlex.quote(str(DEMO / 'scenes.py'))} --count 4 --seed 7 -o scenes", folder)
    images = sorted((folder / "scenes" / "images").iterdir())
    shutil.copy(images[0], folder / "photo.jpg")
    (folder / "folder").mkdir()
    for image in images:
        shutil.copy(image, folder / "folder")
    shutil.copy(folder / "scenes" / "instances.json", folder)
    run(f"python {shlex.quote(str(DEMO / 'scenes.py'))} --count 24 --seed 8 -o many", folder)
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (320, 240))
    for shift in range(3):
        frame = Image.open(images[0]).convert("RGB").resize((320, 240))
        video.write(np.roll(np.asarray(frame)[:, :, ::-1], 8 * shift, axis=1))
    video.release()
    assert run(with_stand_ins(FIRST_EXPORT), folder).stdout.startswith("read off the weights:")


def _make_small_desk(folder: Path) -> None:
    (folder / "mypkg").mkdir()
    (folder / "mypkg" / "models.py").write_text(SMALL_MODEL)
    save = "import torch, mypkg.models; torch.manual_seed(0); torch.save(mypkg.models.build().state_dict(), 'my.pth')"
    run(f"python -c {shlex.quote(save)}", folder)
    (folder / "labels.txt").write_text("cat\ndog\n")
    Image.effect_noise((320, 240), 80).convert("RGB").save(folder / "photo.jpg")
    run("frcnn export my.pth --arch mypkg.models:build -o model.onnx", folder)


def _make_artifact(folder: Path) -> None:
    shutil.copytree(made_once("small desk of the documentation", _make_small_desk), folder, dirs_exist_ok=True)
    run(FIRST_BUILD, folder)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as the pages suppose it, with ``model.onnx`` made by their first command."""
    shutil.copytree(made_once("desk of the documentation", _make_desk), tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def small_desk(tmp_path: Path) -> Path:
    """A folder with a checkpoint of a small network of two classes and its export."""
    shutil.copytree(made_once("small desk of the documentation", _make_small_desk), tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def artifact_desk(tmp_path: Path) -> Path:
    """The small network's folder with ``model.frcnn``, made by the first build of the pages."""
    shutil.copytree(made_once("artifact of the documentation", _make_artifact), tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, request: pytest.FixtureRequest) -> None:
    is_build = command.startswith("frcnn build") and command != FIRST_BUILD
    is_small = is_build or (command.startswith("frcnn export") and command != FIRST_EXPORT)
    desk = "small_desk" if is_small else "artifact_desk" if "model.frcnn" in command else "desk"
    folder = request.getfixturevalue(desk)
    if command in (FIRST_EXPORT, FIRST_BUILD):
        assert (folder / ("model.onnx" if command == FIRST_EXPORT else "model.frcnn")).is_file()
        return
    if "--predictions" in command:
        run(DETECT_WITH_IDS, folder)
    done = run(with_stand_ins(command), folder)
    check = CHECKS.get(command.split()[1])
    if check is not None:
        check(command, folder, done.stdout)


def _check_export(_command: str, _folder: Path, output: str) -> None:
    assert "wrote model.onnx" in output


def _check_build(command: str, folder: Path, output: str) -> None:
    assert (folder / "model.frcnn").is_file()
    if "fp16" in command:
        assert "convolutions and matrix products in fp16" in output


def _check_compare(_command: str, _folder: Path, output: str) -> None:
    assert "AGREE: " in output.replace("DISAGREE", "")


def _check_bench(_command: str, folder: Path, _output: str) -> None:
    assert {file.name for file in (folder / "report").iterdir()} >= {"results.json", "report.md", "report.html"}


def _check_profile(_command: str, folder: Path, output: str) -> None:
    assert "backbone" in output and "slowest 20 of" in output
    assert (folder / "profile.html").read_text().startswith("<!doctype html>")


def _check_eval(command: str, folder: Path, _output: str) -> None:
    measured = json.loads((folder / "map.json").read_text())
    assert measured["AP50"] > 0.5
    if "--checkpoint" in command:
        assert measured["eager"]["AP50"] == pytest.approx(measured["AP50"], abs=1e-3)


def _check_quantize(_command: str, folder: Path, output: str) -> None:
    assert "HOLDS: " in output.replace("DOES NOT HOLD", "")
    assert (folder / "model-int8.onnx").is_file()


def _check_detect(command: str, folder: Path, _output: str) -> None:
    arguments = shlex.split(command)
    videos = {"clip.mp4"} & set(arguments)
    if "--json" in arguments:
        found = json.loads((folder / arguments[arguments.index("--json") + 1]).read_text())
        assert {"image_id", "category_id", "bbox", "score", "file_name"} <= found[0].keys()
        assert {"photo.jpg"} & set(arguments) | videos <= {entry["file_name"] for entry in found}
    if "--jsonl" in arguments:
        lines = (folder / arguments[arguments.index("--jsonl") + 1]).read_text().splitlines()
        assert len([json.loads(line) for line in lines]) >= 3
    if "-o" in arguments:
        assert {path.name for path in (folder / "out").iterdir()} >= {"photo.jpg"} & set(arguments) | videos


def _check_tune(_command: str, folder: Path, output: str) -> None:
    assert "fastest here: " in output
    assert json.loads((folder / "model.onnx.tuned.json").read_text())["choice"]["batch"] >= 1


def _check_try(_command: str, _folder: Path, output: str) -> None:
    assert output.startswith("AGREE: ")


CHECKS = {
    "export": _check_export,
    "build": _check_build,
    "compare": _check_compare,
    "bench": _check_bench,
    "profile": _check_profile,
    "quantize": _check_quantize,
    "eval": _check_eval,
    "tune": _check_tune,
    "try": _check_try,
    "detect": _check_detect,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if SCRIPTS[page]], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_of_a_page_runs(page: Path, request: pytest.FixtureRequest) -> None:
    """The blocks of a page follow on each other, as a reader would type them."""
    code = with_stand_ins("\n".join(SCRIPTS[page]))
    is_small = "frcnn.exporter" in code
    folder = request.getfixturevalue("small_desk" if is_small else "desk")
    (folder / "page.py").write_text(code)
    printed = run("python page.py", folder).stdout
    assert printed.strip()


@pytest.mark.slow
def test_make_demo_runs(tmp_path: Path) -> None:
    recipe = re.search(r"^demo:.*\n\t(.*)\n\n", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    command = recipe[1].replace("$(BIN)/", "").replace("$(OUT)", "demo")
    assert "$" not in command
    printed = run(command + " --budget 3", tmp_path).stdout
    assert printed.startswith("AGREE: ") and (tmp_path / "demo" / "index.html").is_file()


def test_python_that_does_not_run_compiles() -> None:
    for block in blocks():
        if block.language == "python":
            compile(block.text, str(block.page), "exec")


def test_every_verb_is_run_and_every_exit_code_is_stated() -> None:
    assert {command.split()[1] for command in COMMANDS if command.startswith("frcnn")} == set(VERBS)
    errors = (DOCS / "how-to" / "errors.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([0-9, ]+) \|", errors, re.MULTILINE) == ["0", "1", "2", "130, 143", "141"]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/reliability.md"])
def test_files_and_folders_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:src|plugins|exporter|runtime|benchmarks|maintenance|tests|docs|examples)/[\w./-]*)`", text)
    )
    assert len(named) > 5
    assert not [name for name in named if not re.search("NAME|ROOM|VERB", name) and not (ROOT / name).exists()]


def test_modules_that_moved_are_where_the_page_says() -> None:
    text = (DOCS / "reference" / "moved.md").read_text(encoding="utf-8")
    now = set(re.findall(r"^\| `frcnn\.[\w.]+` \| `((?:frcnn|maintenance)[\w.]*)` \|$", text, re.MULTILINE))
    assert len(now) > 100
    tree = {"frcnn": ROOT / "src" / "frcnn", "maintenance": ROOT / "maintenance"}
    gone = []
    for name in now:
        package, *parts = name.split(".")
        place = tree[package].joinpath(*parts)
        if not place.is_dir() and not place.with_suffix(".py").is_file():
            gone.append(name)
    assert not gone


def test_the_extras_of_the_page_are_those_there_are() -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = (DOCS / "reference" / "models.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    assert named == set(there)


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    public = {module: names.split() for module, names in PUBLIC.items()}
    public["frcnn.plugins.cuda.launch"] = ["LoadedOperator", "load_operator", "load_preprocess"]
    for module in sorted(set(public) - {"frcnn", "frcnn.cli", "frcnn.files"}):
        assert f"## {module}\n" in text
        part = text.partition(f"## {module}\n")[2].partition("\n## ")[0]
        missing = [name for name in public[module] if not re.search(rf"\b{name}\b", part)]
        assert not missing, module


def test_the_reference_has_every_verb_and_operator() -> None:
    verbs = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"\{frcnn-verb\} (\w+)", verbs) == list(VERBS)
    operators = (DOCS / "reference" / "operators.md").read_text(encoding="utf-8")
    assert re.findall(r"\{frcnn-operator\} (\w+)", operators) == list(OPERATORS)


def test_the_tables_of_the_architecture_are_those_that_are_held() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    inside = text.partition("<!-- table: ROOM_MAY_IMPORT")[2].partition("\n`exporter`")[0]
    plan: dict[str, dict[str, set[str]]] = defaultdict(dict)
    room = ""
    for row in inside.splitlines():
        cells = row.split("|")[1:-1]
        if len(cells) != 4 or "---" in row or "sub-package" in row:
            continue
        names, folders, imports = (re.findall(r"`(\w+)`", cells[i]) for i in (0, 1, 3))
        room = names[0] if names else room
        for folder in folders:
            plan[room][folder] = set(imports)
    assert plan == ROOM_MAY_IMPORT
    for big in MAY_IMPORT:
        assert big == "face" or f"| `{big}/` | `frcnn.{big}` |" in text
