"""The wheel holds what the tree holds."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import frcnn

ROOT = Path(__file__).parent.parent
FACE = ROOT / "src" / "frcnn"
ROOMS = ("benchmarks", "exporter", "plugins", "runtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built from a copy so that nothing is left in it, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", *ROOMS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", str(folder), str(copy)],
        env=dict(os.environ, PYTHONWARNINGS="default"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def sources_on_disk() -> set[str]:
    found = {f"frcnn/{file.name}" for file in FACE.glob("*.py")}
    for room in ROOMS:
        files = (file for file in (ROOT / room).rglob("*") if file.suffix in (".py", ".css", ".cu", ".cuh"))
        found |= {f"frcnn/{file.relative_to(ROOT).as_posix()}" for file in files}
    return found


def test_every_module_and_kernel_is_in_the_wheel_and_nothing_else(names: set[str]) -> None:
    in_wheel = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert in_wheel == sources_on_disk() | {"frcnn/py.typed"}
    assert "frcnn/plugins/grouped_nms/mask.cu" in in_wheel


def test_the_wheel_is_for_any_platform(wheel: Path) -> None:
    assert wheel.name == f"frcnn-{frcnn.__version__}-py3-none-any.whl"


def test_the_command_is_an_entry_point(wheel: Path, names: set[str]) -> None:
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    parsed = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        parsed.read_string(archive.read(entry_points).decode())
    assert dict(parsed["console_scripts"]) == {"frcnn": "frcnn.cli:main"}


def test_the_metadata_says_what_is_needed(wheel: Path, names: set[str]) -> None:
    (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(path).decode())
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    extras = {"bench", "cpu", "cuda", "dev", "export", "gpu", "pycuda", "rtx", "tensorrt"}
    assert set(metadata.get_all("Provides-Extra") or []) == extras
    base = {line.split(";")[0] for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line}
    packages = {"msgspec", "numpy", "onnx", "opencv-python-headless", "pillow", "rich"}
    assert {
        next(name for name in sorted(packages, key=len, reverse=True) if line.startswith(name)) for line in base
    } == packages
    assert all("<" in line for line in base), "every version is bounded"


def test_an_unpacked_wheel_runs_without_the_tree(wheel: Path, tmp_path: Path) -> None:
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
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == [
        str(tmp_path / "frcnn" / p) for p in ("__init__.py", "runtime/__init__.py")
    ]
