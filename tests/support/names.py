"""Names of files that libraries stumble over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def not_utf8(folder: Path) -> Path:
    """Make a folder whose name is Latin-1, where the file system takes such names."""
    made = folder / os.fsdecode(b"caf\xe9")
    try:
        made.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    return made
