"""A disk that is full, for a block of this process."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_at_most(size_bytes: int) -> Iterator[None]:
    """Let every write beyond so many bytes of a file fail, as on a full disk.

    Python 3.11 keeps what it could write of a module's bytecode, and cannot read it the next time; so it keeps none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeps_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = keeps_no_bytecode
