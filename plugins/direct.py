"""The former name of :mod:`frcnn.plugins.cuda.launch`; its names warn, and go with the next release."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from frcnn.plugins.cuda import launch

if TYPE_CHECKING:
    from frcnn.plugins.cuda.launch import LoadedOperator, load_operator, load_preprocess

__all__ = ["LoadedOperator", "load_operator", "load_preprocess"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is frcnn.plugins.cuda.launch.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(launch, name)
