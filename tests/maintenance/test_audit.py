"""The audit says what was asked for, and believes no answer that knows nothing; pip-audit's place is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from maintenance.audit import main

PIP_AUDIT = """
import json, pathlib, sys
path = sys.argv[sys.argv.index("--requirement") + 1]
names = pathlib.Path(path).read_text().split()
if "unknown==1" in names:
    sys.exit("unknown: Dependency not found on PyPI and could not be audited: unknown (1)")
assert "--strict" in sys.argv and ("--require-hashes" in sys.argv) == path.endswith(".lock")
bad = {} if "--knows-nothing" in sys.argv else {"jinja2": ["2.10.1"], "old": []}
packages = [dict(zip(("name", "version"), name.split("=="))) for name in names]
for package in packages:
    fixed = bad.get(package["name"])
    package["vulns"] = [] if fixed is None else [{"id": "PYSEC-1", "fix_versions": fixed}]
print(json.dumps({"dependencies": packages, "fixes": []}))
sys.exit(any(package["vulns"] for package in packages))
"""


@pytest.fixture(autouse=True)
def pip_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip_audit.py").write_text(PIP_AUDIT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def lock(folder: Path, *names: str) -> str:
    path = folder / "some.lock"
    path.write_text("\n".join(names))
    return str(path)


def test_what_was_asked_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([lock(tmp_path, "a==1", "b==2")]) == 0
    said = capsys.readouterr().out
    assert "some.lock: 2 packages asked for, 0 with known vulnerabilities" in said
    assert "asked: pypi, 20" in said
    assert said.endswith("jinja2==2.4.1 is known there as vulnerable\n")


def test_what_is_vulnerable_is_named_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([lock(tmp_path, "a==1", "old==2")]) == 1
    assert "  old 2: PYSEC-1, fixed in no release" in capsys.readouterr().out


def test_a_database_that_knows_nothing_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([lock(tmp_path, "a==1"), "--", "--vulnerability-service", "osv", "--knows-nothing"]) == 1
    said = capsys.readouterr().out
    assert "asked: osv, 20" in said
    assert "is NOT known there" in said


def test_a_package_that_could_not_be_asked_for_fails(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"some\.lock: not audited"):
        main([lock(tmp_path, "a==1", "unknown==1")])
