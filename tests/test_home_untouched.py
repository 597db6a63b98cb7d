"""A run of the tests neither changes nor reads the user's home, caches and settings, and leaves no temporary file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.own_folders import VARIABLES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SETTINGS = ("CONFIG", "CACHE", "DATA", "STATE")
CARELESS = "tests/support/careless.py"
ALSO = (  # export, build with kernels, another package's caches, a command in a process of its own
    "tests/test_faults.py::test_without_a_place_for_temporary_files",
    "tests/runtime/test_detections.py::test_to_supervision",
    "tests/runtime/commands/test_doctor.py::test_torch_is_never_imported",
)

Seen = dict[str, tuple[object, ...]]


class System:
    """A user's home with files that others may read, and a folder for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.home, self.temporary = folder / "home", folder / "tmp"
        self.temporary.mkdir()
        for name in (".config/matplotlib/matplotlibrc", ".cache/marker", "marker"):
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("figure.figsize: 1, 1\n")
            os.utime(path, (10**9, 10**9 + 1))  # read before it was written: the next reader changes that
        self.variables = {"HOME": str(self.home), "TMPDIR": str(self.temporary)}
        self.variables |= {name: str(self.home / name) for name in VARIABLES if not name.startswith(("TMP", "TEMP"))}
        self.variables |= {f"XDG_{name}_HOME": str(self.home / f".{name.lower()}") for name in SETTINGS}

    def look(self) -> Seen:
        """Return name -> mode, size, times and content of all files and folders in the home."""
        paths = [self.home, *sorted(self.home.rglob("*"))]
        found: Seen = {}
        for path in paths:
            status = path.lstat()
            found[str(path.relative_to(self.home))] = (
                status.st_mode,
                status.st_size,
                status.st_mtime_ns,
                None if path.is_dir() else (status.st_atime_ns, status.st_ino),
            )
        return found

    def run_tests(self, *tests: str, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FRCNN_TEST_"))}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        return subprocess.run(
            command, cwd=ROOT, env=kept | self.variables | more, capture_output=True, text=True, check=False
        )


@pytest.fixture
def system(tmp_path):
    return System(tmp_path)


def test_careless_tests_leave_the_home_as_it_was(system):
    before = system.look()
    done = system.run_tests(CARELESS, *ALSO)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout.splitlines()[-1] and "skipped" not in done.stdout.splitlines()[-1], done.stdout
    assert system.look() == before
    assert list(system.temporary.iterdir()) == []


def test_without_folders_of_the_runs_own_they_would_not(system):
    before = system.look()
    as_a_worker = {"FRCNN_TEST_FOLDERS": str(system.home.parent)}  # of a run whose home this is
    assert system.run_tests(CARELESS, **as_a_worker).returncode == 0
    after = system.look()
    assert {"FRCNN_CACHE_DIR/kernels", "FRCNN_CACHE_DIR/tensorrt-rtx", "MPLCONFIGDIR/kept", ".frcnnrc"} <= after.keys()
    assert {"TORCH_HOME/hub/kept", "TORCHINDUCTOR_CACHE_DIR/kept"} <= after.keys()
    assert after["."] != before["."]
    assert (system.temporary / "frcnn.log").exists()
