"""CI runs the tests and builds the documentation as on a new system, and with a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
MAKE = f"""#!/bin/sh
echo "make $*" >> "$LOG"
for folder in {" ".join(f'"${name}"' for name in FOLDERS)}; do
    echo "$folder $(ls -A "$folder" | wc -l)" >> "$LOG"
    touch "$folder/left"
done
exit $MAKE_EXIT
"""
APT_GET = """#!/bin/sh
echo "apt-get $*" >> "$LOG"
exit $APT_GET_EXIT
"""


def run_ci(folder: Path, *programs: str, make_exit: int = 0, apt_get_exit: int = 0) -> tuple[int, list[str]]:
    """Run CI's script where the programs are stand-ins; return its exit status and what they were asked for."""
    programs_folder = folder / "bin"
    programs_folder.mkdir()
    for name in ("bash", "dirname", "ls", "mkdir", "mktemp", "rm", "sh", "touch", "wc"):
        (programs_folder / name).symlink_to(str(shutil.which(name)))
    for name in programs:
        (programs_folder / name).write_text({"make": MAKE, "apt-get": APT_GET}.get(name, "#!/bin/sh\n"))
        (programs_folder / name).chmod(0o755)
    (folder / "tmp").mkdir()
    log = folder / "log"
    environment = {"PATH": programs_folder, "TMPDIR": folder / "tmp", "LOG": log, "HOME": folder}
    exits = {"MAKE_EXIT": str(make_exit), "APT_GET_EXIT": str(apt_get_exit)}
    done = subprocess.run([ROOT / ".ci" / "run"], cwd=folder, env=environment | exits, check=False)
    assert not list((folder / "tmp").iterdir()), "the folders are removed"
    return done.returncode, log.read_text().splitlines()


@pytest.mark.parametrize("make_exit", [0, 2])
def test_the_tests_run_in_new_empty_folders(make_exit: int, tmp_path: Path) -> None:
    status, log = run_ci(tmp_path, "make", "chromium", "apt-get", make_exit=make_exit)
    asked = [line for line in log if line.startswith("make")]
    assert (status, asked) == (make_exit, ["make test"] if make_exit else ["make test", "make docs"])
    folders = log[1 : 1 + len(FOLDERS)]
    places, counts = zip(*(line.split() for line in folders), strict=True)
    assert counts == ("0",) * len(FOLDERS)
    assert len(set(places)) == len(FOLDERS)
    assert all(Path(place).is_relative_to(tmp_path / "tmp") for place in places)


def test_a_missing_browser_is_installed_first(tmp_path: Path) -> None:
    status, asked = run_ci(tmp_path, "make", "apt-get")
    assert status == 0
    assert asked[:3] == [
        "apt-get update",
        "apt-get install --yes --no-install-recommends chromium",
        "make test",
    ]


def test_nothing_runs_where_the_browser_cannot_be_installed(tmp_path: Path) -> None:
    assert run_ci(tmp_path, "make", "apt-get", apt_get_exit=100) == (100, ["apt-get update"])


def test_a_system_without_apt_get_does_without_a_browser(tmp_path: Path) -> None:
    status, asked = run_ci(tmp_path, "make")
    assert (status, asked[0]) == (0, "make test")
