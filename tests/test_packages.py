"""Optional packages: a missing one is told apart from one that does not load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from frcnn.errors import MissingDependencyError
from frcnn.packages import import_package, installed_version, is_installed


def refused(module: str) -> MissingDependencyError:
    with pytest.raises(MissingDependencyError) as caught:
        import_package(module, package="pack", extra="cpu", why="a test", broken_hint="mend it")
    return caught.value


@pytest.mark.parametrize("module", ["frcnn_absent", "frcnn_absent.part"])
def test_a_missing_module_names_the_extra(module: str) -> None:
    error = refused(module)
    assert error.message == "a test needs the package 'pack', which is not installed"
    assert error.hint == "pip install 'frcnn[cpu]'"
    assert not is_installed(module)
    assert installed_version(module) == ""


def test_a_module_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frcnn_broken.py").write_text("import frcnn_absent", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused("frcnn_broken")
    sys.modules.pop("frcnn_broken", None)
    assert error.message == "a test needs the package 'pack', which does not load: No module named 'frcnn_absent'"
    assert error.hint == "mend it"
