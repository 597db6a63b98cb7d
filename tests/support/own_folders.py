"""Folders of the run's own in place of the user's: home, caches, settings and temporary files.

``tests/conftest.py`` imports this before anything that may look for them. Tests and the processes that they start find
an empty home, and no variable that names another place. The workers of pytest-xdist share one home, with the kernels
that were compiled. All of it goes when the run ends; ``--basetemp`` keeps what the tests write.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VARIABLES = (
    *("CUDA_CACHE_PATH", "FRCNN_CACHE_DIR", "MATPLOTLIBRC", "MPLCONFIGDIR", "SCIKIT_LEARN_DATA", "SKIMAGE_DATADIR"),
    *("TEMP", "TMP", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCH_HOME"),
    *("TRITON_CACHE_DIR", "TRITON_HOME"),
)
"""Each takes the place of a folder in the home or of the folder for temporary files; so does what begins with XDG_."""

_PYTHON = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONWARNINGS")
"""What commands do with files and streams is to be the same whatever shell the tests are started from."""


def _use_own_folders() -> None:
    made = os.environ.get("FRCNN_TEST_FOLDERS")
    if made and os.environ.get("HOME") == f"{made}/home":  # by this process, or by the one that started it as a worker
        return
    folder = Path(tempfile.mkdtemp(prefix="frcnn-tests-"))
    atexit.register(_remove, folder, os.getpid())
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    for name in [name for name in os.environ if name in (*VARIABLES, *_PYTHON) or name.startswith("XDG_")]:
        del os.environ[name]
    os.environ |= {"FRCNN_TEST_FOLDERS": str(folder), "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    tempfile.tempdir = None  # pytest has asked for it before


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork of ours that ends must leave them
        shutil.rmtree(folder, ignore_errors=True)


_use_own_folders()
