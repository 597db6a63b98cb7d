"""The extras: an error names one that brings the package, and what is promised to work without torch does."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_structure import ROOT, TREES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
TORCH = {"torch", "torchvision", "onnxscript", "safetensors"}
WITHOUT_TORCH = ("cpu", "eval", "report", "supervision", "pandas", "heif", "openvino")


def packages(requirements: list[str]) -> set[str]:
    """Return the packages of requirements; an extra of frcnn stands for what it brings."""
    found = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()  # type: ignore[union-attr]
        found |= {name} - {"frcnn"}
        if name == "frcnn":
            found |= packages([more for extra in extras.split(",") for more in EXTRAS[extra]])
    return found


def installed_with(package: str, known: set[str]) -> set[str]:
    """Add the package and everything that it requires here, as installed."""
    if package not in known:
        known.add(package)
        for requirement in metadata.requires(package) or []:
            needed, _, marker = requirement.partition(";")
            if "extra ==" not in marker:
                name = re.match(r"[\w.-]+", needed).group()  # type: ignore[union-attr]
                try:
                    installed_with(name, known)
                except metadata.PackageNotFoundError:  # for another system
                    known.discard(name)
    return known


@pytest.mark.parametrize("extra", WITHOUT_TORCH)
def test_an_extra_brings_no_torch(extra: str) -> None:
    known = set[str]()
    for package in packages(EXTRAS[extra]):
        installed_with(package, known)
    assert known >= packages(EXTRAS[extra])
    assert not known & TORCH
    assert not {name for name in known if "opencv" in name}, "a second OpenCV would lie over ours"


def test_the_benchmark_and_the_developers_have_all_of_it() -> None:
    assert packages(EXTRAS["bench"]) >= TORCH | packages(EXTRAS["eval"] + EXTRAS["report"] + EXTRAS["supervision"])
    assert packages(EXTRAS["dev"]) >= packages(EXTRAS["bench"] + EXTRAS["pandas"])


def test_an_error_names_an_extra_that_brings_the_package() -> None:
    named = [
        (keywords["package"], keywords["extra"])
        for tree in TREES.values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and (keywords := {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)})
        and {"package", "extra"} <= keywords.keys()
    ]
    assert {"faster-coco-eval", "supervision", "pandas", "onnxruntime"} <= {package for package, _ in named}
    base = packages(PROJECT["dependencies"])
    assert not [(package, extra) for package, extra in named if package not in packages(EXTRAS[extra]) | base]


RUN = """
import json, sys
sys.modules.update(dict.fromkeys(HIDDEN))
from frcnn.cli import main
print(json.dumps([main(arguments) for arguments in COMMANDS]))
"""


def run(hidden: set[str], *commands: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run commands in one process that finds none of the hidden packages; its last line is their exit codes."""
    code = RUN.replace("HIDDEN", repr(sorted(hidden))).replace("COMMANDS", repr(list(commands)))
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "src"), PYTHONWARNINGS="error")
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def desk(exports, tmp_path: Path) -> Path:
    """A folder with an image, annotations and a model."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "images" / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 40, 40]}
    image = {"id": 1, "file_name": "a.png", "height": 120, "width": 160}
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "1"}]}
    (tmp_path / "instances.json").write_text(json.dumps(document))
    (tmp_path / "model.onnx").symlink_to(exports("resnet50_fpn").path)
    return tmp_path


EVALUATE = ["eval", "model.onnx", "--annotations", "instances.json", "--images", "images"]


@pytest.mark.slow
def test_without_torch_models_are_run_measured_and_evaluated(desk: Path) -> None:
    verbs = (
        ["doctor"],
        ["inspect", "model.onnx"],
        ["detect", "model.onnx", "images", "-o", "out", "--score", "0"],
        [*EVALUATE, "--json", "map.json"],
        ["profile", "model.onnx", "--images", "images", "--repeats", "1"],
    )
    done = run(TORCH, *verbs, folder=desk)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0] * len(verbs), done.stderr
    assert {"out/a.png", "map.json", "profile.html"} <= {str(p.relative_to(desk)) for p in desk.rglob("*")}


def test_an_evaluation_asks_for_its_package_before_the_work(desk: Path) -> None:
    done = run({"faster_coco_eval"}, EVALUATE, folder=desk)
    assert done.stdout.splitlines()[-1] == "[2]"
    assert done.stderr.splitlines() == [
        "error: measuring accuracy needs the package 'faster-coco-eval', which is not installed",
        "hint: pip install 'frcnn[eval]'",
    ]
    (desk / "model.onnx").unlink()
    assert run({"faster_coco_eval"}, EVALUATE, folder=desk).stderr == done.stderr
