"""Deprecated: the name that :mod:`frcnn.spec.engine` had in 0.1, for one release more."""

import warnings

from frcnn.spec.engine import *  # noqa: F403

warnings.warn("frcnn.engine_spec is now frcnn.spec.engine", DeprecationWarning, stacklevel=2)
