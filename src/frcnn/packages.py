"""Heavy and optional packages: imported on first use, or only looked for."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from frcnn.errors import MissingDependencyError


def import_package(module: str, *, package: str, extra: str, why: str, broken_hint: str = "") -> ModuleType:
    """Return a module, or raise MissingDependencyError, which names the extra of frcnn that installs its package.

    A module that is there and does not load is told apart from a missing one, and may have a hint of its own.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing or not for this system
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        problem = "" if is_missing else f"does not load: {' '.join(str(error).split())}"
        hint = broken_hint if problem else ""
        raise MissingDependencyError(package, extra=extra, why=why, problem=problem, hint=hint) from error


def is_installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution; empty if there is none, or it does not tell."""
    try:
        return metadata.version(distribution) or ""
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return ""
