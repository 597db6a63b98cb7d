"""The wheel holds what the tree holds."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import frcnn

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FACE = ROOT / "src" / "frcnn"
ROOMS = ("benchmarks", "exporter", "plugins", "runtime")
TRIAL = ROOT / "benchmarks" / "trial"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = PROJECT["tool"]["setuptools"]["package-data"]  # package -> patterns of its files that are no modules
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}


def copy_of_the_tree(folder: Path) -> Path:
    """Copy what a wheel is made of to ``folder/frcnn``, so that nothing is left in this tree."""
    copy = folder / "frcnn"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", *ROOMS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command in a folder and return its standard output."""
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(hook: str, tree: Path, folder: Path) -> Path:
    """Call a hook of the build backend (PEP 517, PEP 660) without a network; return the file that it made."""
    code = f"from setuptools.build_meta import {hook} as hook; hook({str(folder)!r})"
    run(sys.executable, "-c", code, folder=tree)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module", params=["of the tree", "of the sdist"])
def wheel(request, tmp_path_factory):
    """A wheel made by pip, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_of_the_tree(folder)
    if request.param == "of the sdist":
        source = build("build_sdist", source, tmp_path_factory.mktemp("sdist"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    options = ["--disable-pip-version-check", "--wheel-dir", folder, source]
    run(*command, *options, folder=folder, PYTHONWARNINGS="default")
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def packaged_files() -> set[str]:
    folders = [FACE, *(folder for folder in FACE.iterdir() if folder.is_dir() and not folder.is_symlink())]
    found = {file for folder in folders for file in folder.glob("*.py")}
    found |= {file for pattern in DATA["frcnn"] for file in FACE.glob(pattern)}
    packaged = {f"frcnn/{file.relative_to(FACE).as_posix()}" for file in found}
    for room in ROOMS:
        files = (file for pattern in ("*.py", *DATA["*"]) for file in (ROOT / room).rglob(pattern))
        packaged |= {f"frcnn/{file.relative_to(ROOT).as_posix()}" for file in files}
    of_the_trial = (file for pattern in DATA["frcnn.benchmarks.trial"] for file in TRIAL.glob(pattern))
    return packaged | {f"frcnn/{file.relative_to(ROOT).as_posix()}" for file in of_the_trial if file.is_file()}


def test_every_module_and_data_file_is_in_the_wheel_and_nothing_else(names):
    in_wheel = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert in_wheel == packaged_files()
    assert {"frcnn/py.typed", "frcnn/spec/engine.py", "frcnn/plugins/box_detections/suppress.cu"} <= in_wheel


def test_every_file_of_a_room_is_packaged():
    """A data file of a new kind needs a pattern in pyproject.toml."""
    for room in ROOMS:
        on_disk = {f"frcnn/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / room).rglob("*") if file.is_file()}
        left_out = on_disk - packaged_files()
        assert not {name for name in left_out if "/__pycache__/" not in name and "/results/" not in name}


def test_the_wheel_holds_the_bundled_detector_its_photographs_and_whose_they_are(wheel, names):
    bundle = {name.rpartition("/bundle/")[2] for name in names if "/trial/bundle/" in name}
    assert bundle >= {"digits.pth", "instances.json", "LICENSES.md", "images/00001.jpg"}
    assert wheel.stat().st_size < 15_000_000


def test_what_only_maintainers_run_is_not_in_the_wheel(names):
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"maintenance", "tests", "examples", "docs"}


def test_the_wheel_is_for_any_platform_and_has_the_command(wheel, names):
    assert wheel.name == f"frcnn-{frcnn.__version__}-py3-none-any.whl"
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    parsed = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        parsed.read_string(archive.read(entry_points).decode())
    assert dict(parsed["console_scripts"]) == {"frcnn": "frcnn.cli:main"}


def test_the_metadata_says_what_is_needed(wheel, names):
    (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(path).decode())
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    extras = {"bench", "cpu", "cuda", "dev", "docs", "eval", "export", "gpu", "heif", "onnxruntime"}
    extras |= {"openvino", "pandas", "pycuda", "ray", "report", "rtx", "supervision", "tensorrt", "tensorrt-lean"}
    assert set(metadata.get_all("Provides-Extra") or []) == extras
    base = {line.split(";")[0] for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line}
    packages = {"msgspec", "numpy", "onnx", "opencv-python-headless", "pillow", "rich", "shtab"}
    assert {
        next(name for name in sorted(packages, key=len, reverse=True) if line.startswith(name)) for line in base
    } == packages
    assert all("<" in line for line in base), "every version is bounded"


def test_an_unpacked_wheel_runs_without_the_tree(wheel, tmp_path):
    """No links in a wheel: the rooms are real packages there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import frcnn.runtime, frcnn.plugins, frcnn.exporter, frcnn.benchmarks\n"
        "print(frcnn.__file__, frcnn.runtime.__file__)\n"
        "from frcnn.cli import main\n"
        "sys.exit(main(['detect', '--help']))"
    )
    first, *_ = run(sys.executable, "-P", "-c", code, folder=tmp_path).splitlines()
    assert first.split() == [str(tmp_path / "frcnn" / name) for name in ("__init__.py", "runtime/__init__.py")]


@pytest.mark.parametrize("wheel", ["of the tree"], indirect=True)
def test_the_bundled_detector_is_tried_without_the_tree(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'unpacked')!r})\n"
        "from frcnn.cli import main\n"
        "sys.exit(main(['try', '--budget', '2', '-o', 'tried']))"
    )
    printed = run(sys.executable, "-P", "-c", code, folder=tmp_path)
    assert printed.startswith("AGREE: ")
    assert (tmp_path / "tried" / "index.html").is_file() and (tmp_path / "tried" / "bundle" / "LICENSES.md").is_file()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone called ``frcnn``."""
    return copy_of_the_tree(tmp_path_factory.mktemp("projects"))


@pytest.fixture(scope="module")
def python(clone, tmp_path_factory):
    """The Python of an environment that holds an editable installation of the clone and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    with zipfile.ZipFile(build("build_editable", clone, tmp_path_factory.mktemp("editable"))) as archive:
        archive.extractall(next(folder.glob("lib/python*/site-packages")))
    return folder / "bin" / "python"


@pytest.fixture(params=["the clone's parent", "the clone", "elsewhere"])
def folder(request, clone, tmp_path):
    """Where a user works. In the clone's parent, the folder ``frcnn`` is a package to Python, too: a namespace."""
    return {"the clone's parent": clone.parent, "the clone": clone, "elsewhere": tmp_path}[request.param]


def test_an_editable_installation_is_imported_from_anywhere(folder, clone, python):
    code = (
        "import importlib.util, os, frcnn\n"
        f"rooms = [importlib.util.find_spec(f'frcnn.{{room}}') for room in {ROOMS!r}]\n"
        "print(frcnn.__version__, os.environ['ORT_DISABLE_TELEMETRY'], *(room.origin for room in rooms))"
    )
    version, telemetry, *origins = run("env", "-u", "ORT_DISABLE_TELEMETRY", python, "-c", code, folder=folder).split()
    assert (version, telemetry) == (frcnn.__version__, "1")
    assert origins == [str(clone / "src" / "frcnn" / room / "__init__.py") for room in ROOMS]


def test_a_type_checker_finds_an_editable_installation(folder, python):
    """It reads folders and .pth files; an import hook means nothing to it."""
    code = "import frcnn\nfrom frcnn.runtime import Detections\n\nreveal_type(frcnn.__version__)\nDetections.boxez\n"
    (folder / "mine.py").write_text(code)
    options = ["--config-file=", "--cache-dir", os.devnull, "--python-executable", python]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "mine.py"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        'mine.py:4: note: Revealed type is "str"',
        'mine.py:5: error: "type[Detections]" has no attribute "boxez"  [attr-defined]',
        "Found 1 error in 1 file (checked 1 source file)",
    ], done.stderr
