"""What takes long to make, made once a run: the first process that needs it makes it, the others wait and use it.

The workers of pytest-xdist share the run's folders, see ``own_folders``; all of it goes when the run ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that is filled.

    Args:
        name: of what is made; two different things have different names.
        make: fills an empty folder. Where it fails, the next one who asks tries again.
    """
    shared = Path(os.environ["FRCNN_TEST_FOLDERS"]) / "shared"
    shared.mkdir(exist_ok=True)
    folder = shared / re.sub(r"[^\w.-]+", "_", name)
    with (shared / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = shared / f"{folder.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
