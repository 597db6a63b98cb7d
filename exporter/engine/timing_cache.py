"""TensorRT's timing cache: the times of kernels, in a file, so that a second build does not measure them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from frcnn.errors import UsageError
from frcnn.exporter.engine.network import Network
from frcnn.files import replacing, writable_file
from frcnn.log import warn_once

_SUFFIX: Final = ".timing"


def timing_cache_beside(artifact: Path) -> Path:
    """Return the file that the command keeps the timing cache of an artifact's builds in."""
    return artifact.with_suffix(_SUFFIX)


def attach_timing_cache(network: Network, config: Any, path: Path, *, replace: bool) -> Any:
    """Give a builder's configuration the timing cache of a file, or an empty one, and return it.

    ``replace``: a file that this TensorRT on this GPU cannot use is warned of and taken for an empty one; UsageError is
    raised otherwise, and for one that cannot be read. OutputError tells before the build that it cannot be written.
    """
    try:
        stored = writable_file(path).read_bytes()
    except FileNotFoundError:
        stored = b""
    except OSError as error:
        raise UsageError(f"--timing-cache: cannot read {path}: {error.strerror}", hint="name another file") from error
    cache = config.create_timing_cache(stored)
    if _is_taken(network, config, cache):
        return cache
    problem = f"{path} is no timing cache of this TensorRT on this GPU"
    if not replace:
        raise UsageError(f"--timing-cache: {problem}", hint="name a file that does not exist yet, or delete this one")
    warn_once(f"{problem}; a new one takes its place")
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise network.messages.failure("TensorRT makes no timing cache")
    return cache


def write_timing_cache(cache: Any, path: Path) -> None:
    """Write a timing cache after a build: the whole file, or nothing of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(memoryview(cache.serialize()))


def _is_taken(network: Network, config: Any, cache: Any) -> bool:
    """Give a configuration its cache; False where TensorRT could not read it, or refuses it for another's."""
    is_lost = cache is None or network.messages.is_cache_lost
    return not is_lost and bool(config.set_timing_cache(cache, False))
