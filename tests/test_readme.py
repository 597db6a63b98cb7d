"""Every command and every piece of Python in the README runs.

Where the README means a user's own file, the demo's checkpoint and pictures stand in. The demo's network is its own, so
a name of an architecture becomes the demo's function, and a command without ``--arch`` gets one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "train_demo"
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCH = f"{DEMO / 'model.py'}:build"

NOT_RUN = {
    "make demo": "its commands are run one by one below; it installs into .venv itself",
    "pip install": "would change the environment under test",
    "frcnn export --weights": "downloads torchvision's weights; needs a network",
}
CANVASES = "--size 320x512,512x320"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


COMMANDS = [
    line.partition(" #")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def with_stand_ins(command: str) -> str:
    """Replace what a user brings by what is here; sizes and classes by some that the demo's model has."""
    for theirs, here in {
        "--arch fasterrcnn_resnet50_fpn ": f"--arch {shlex.quote(ARCH)} ",
        "--size 800x1344,1344x800": CANVASES,
        "--classes cat,dog": "--classes two,five,six",
    }.items():
        command = command.replace(theirs, here)
    if " my.pth" in command and "--arch" not in command:
        command += f" --arch {shlex.quote(ARCH)}"
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
    """A folder as the README supposes it, before any command: checkpoint, labels, a package, pictures and a video."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(DEMO / "digits.pth", folder / "my.pth")
    shutil.copy(DEMO / "labels.txt", folder / "labels.txt")
    (folder / "mypkg").mkdir()
    (folder / "mypkg" / "__init__.py").touch()
    shutil.copy(DEMO / "model.py", folder / "mypkg" / "models.py")
    run(f"python {shlex.quote(str(DEMO / 'scenes.py'))} --count 4 --seed 7 -o scenes", folder)
    pictures = sorted((folder / "scenes" / "images").iterdir())
    shutil.copy(pictures[0], folder / "photo.jpg")
    (folder / "folder").mkdir()
    for picture in pictures[1:]:
        shutil.copy(picture, folder / "folder")
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (320, 240))
    for shift in range(3):
        frame = Image.open(pictures[0]).convert("RGB").resize((320, 240))
        video.write(np.roll(np.asarray(frame)[:, :, ::-1], 8 * shift, axis=1))
    video.release()
    return folder


@pytest.fixture(scope="module")
def desk_with_model(desk: Path) -> Path:
    """The same with ``model.onnx``, made by the README's first command."""
    first = next(command for command in COMMANDS if command.startswith("frcnn export"))
    done = run(with_stand_ins(first), desk)
    assert done.stdout.startswith("read off the weights:")
    assert (desk / "model.onnx").is_file()
    return desk


@pytest.fixture
def untouched(desk_with_model: Path) -> Iterator[Path]:
    """The desk; afterwards ``model.onnx`` is the first command's again."""
    model = desk_with_model / "model.onnx"
    before = model.read_bytes()
    yield desk_with_model
    model.write_bytes(before)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command: str, untouched: Path) -> None:
    why = reason_not_to_run(command)
    if why is not None:
        pytest.skip(why)
    done = run(with_stand_ins(command), untouched)
    if command.startswith("frcnn compare"):
        assert "AGREE" in done.stdout
    if command.startswith("frcnn detect"):
        found = json.loads((untouched / "out.json").read_text())
        assert {"image_id", "category_id", "bbox", "score", "file_name"} <= found[0].keys()
        names = {entry["file_name"] for entry in found}
        assert {"photo.jpg", "clip.mp4"} <= names
        copies = {path.name for path in (untouched / "out").iterdir()}
        assert {"photo.jpg", "clip.mp4"} < copies


def test_the_first_command_is_one_of_those_that_run() -> None:
    assert with_stand_ins(COMMANDS[COMMANDS.index("make demo") + 2]).startswith("frcnn export my.pth --labels")


def test_every_verb_and_every_exit_code_is_in_the_readme() -> None:
    from frcnn.cli import VERBS

    assert {command.split()[1] for command in COMMANDS if command.startswith("frcnn")} == set(VERBS)
    assert re.findall(r"^\| ([0-9, ]+) \|", README, re.MULTILINE) == ["0", "1", "2", "130, 143"]


def test_the_python_of_the_readme_runs(untouched: Path) -> None:
    (code,) = blocks("python")
    names = (untouched / "labels.txt").read_text().split()
    for theirs, here in {
        'load_checkpoint("my.pth")': f'load_checkpoint("my.pth", arch={ARCH!r})',
        'labels=["cat", "dog"]': f"labels={names!r}",
    }.items():
        assert theirs in code
        code = code.replace(theirs, here)
    (untouched / "readme.py").write_text(code)
    done = run("python readme.py", untouched)
    first, second = done.stdout.splitlines()
    assert first == second
    name, count = first.split()
    assert name == "photo.jpg"
    assert int(count) > 0


def test_the_commands_of_make_demo_run(untouched: Path) -> None:
    """All but the export, which the other tests have made already: of the same checkpoint, without names for labels."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    places = {"$(BIN)/": "", "$(DEMO)": shlex.quote(str(DEMO)), "$(OUT)": "demo", "--count 12": "--count 3"}
    (untouched / "demo").mkdir()
    shutil.copy(untouched / "model.onnx", untouched / "demo")
    verbs = []
    for line in recipe[1].splitlines():
        command = line.strip()
        for theirs, here in places.items():
            command = command.replace(theirs, here)
        assert "$" not in command
        if command.startswith("@echo") or command.startswith("frcnn export"):
            continue
        verbs.append(command.split()[1])
        run(command, untouched)
    assert verbs[1:] == ["inspect", "detect", "compare"]
    assert len(list((untouched / "demo" / "annotated").iterdir())) == 3


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_extras_of_the_readme_are_those_there_are() -> None:
    import tomllib

    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = README.partition("| extra |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(there)
