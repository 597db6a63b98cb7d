"""What is installed is bounded in pyproject.toml, pinned and hashed in the locks, and refused where it differs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = PROJECT["project"]["optional-dependencies"]
ENTRY = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)( ; [^\\\n]+)?"  # a marker, where a package is not for every platform
    r"(( \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def pins(lock: str) -> dict[str, Version]:
    """Return what a lock pins; nothing but pins with hashes and comments may be in it."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    entries = list(ENTRY.finditer(text))
    assert "".join(entry[0] for entry in entries) == text
    found = {entry["name"]: Version(entry["version"]) for entry in entries}
    assert len(found) == len(entries), "a package is pinned twice"
    return found


def wanted(lines: list[str]) -> Iterator[Requirement]:
    """Give the packages that requirements ask for, those of our own extras in their place."""
    for requirement in map(Requirement, lines):
        if requirement.name != "frcnn":
            yield requirement
        for extra in sorted(requirement.extras) if requirement.name == "frcnn" else ():
            yield from wanted(EXTRAS[extra])


EVERY_LIST = {
    "build-system": PROJECT["build-system"]["requires"],
    "dependencies": PROJECT["project"]["dependencies"],
    **EXTRAS,
    **PROJECT["dependency-groups"],
}


@pytest.mark.parametrize("name", EVERY_LIST)
def test_every_dependency_is_bounded_on_both_sides(name):
    for requirement in wanted(EVERY_LIST[name]):
        assert sorted(clause.operator for clause in requirement.specifier) == ["<", ">="], str(requirement)


@pytest.mark.parametrize(
    ("lock", "lines"),
    [
        (
            "requirements.lock",
            [*PROJECT["project"]["dependencies"], "frcnn[dev]", *PROJECT["build-system"]["requires"]],
        ),
        ("tools.lock", PROJECT["dependency-groups"]["tools"]),
    ],
)
def test_a_lock_pins_what_pyproject_asks_for_inside_its_bounds(lock, lines):
    pinned = pins(lock)
    asked = list(wanted(lines))
    assert asked
    for requirement in asked:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, f"{requirement}: run make lock"


def pip_installs() -> list[list[str]]:
    """Return the options of every installation in the Makefile."""
    return [line.split()[1:] for line in MAKEFILE.splitlines() if line.startswith("\t") and "$(PIP_INSTALL)" in line]


def test_the_makefile_installs_by_hash_and_fetches_nothing_else():
    assert MAKEFILE.count("pip install") == 1, "the definition of PIP_INSTALL"
    own = ["--no-deps", "--no-build-isolation", "--editable", "."]
    by_hash = [options for options in pip_installs() if options != own]
    assert len(by_hash) == len(pip_installs()) - 1 == 3
    for options in by_hash:
        assert options[:3] == ["--require-hashes", "--only-binary", ":all:"]
    built = [options[options.index("--no-binary") + 1] for options in by_hash if "--no-binary" in options]
    assert built == ["tensorrt-rtx-cu13"]


def test_setuptools_is_cut_out_of_the_lock_with_its_hashes():
    """It is installed first, by the same hashes, to build the one source package and us without a network."""
    (recipe,) = re.findall(r"^\tsed -n '(.*)' requirements.lock > .venv/setuptools.lock$", MAKEFILE, re.MULTILINE)
    command = ["sed", "-n", recipe.replace("$$", "$"), str(ROOT / "requirements.lock")]
    cut = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entry = ENTRY.fullmatch(cut)
    assert entry is not None
    assert (entry["name"], Version(entry["version"])) == ("setuptools", pins("requirements.lock")["setuptools"])
