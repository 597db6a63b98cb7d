"""The cluster: connect to it, see what it has room for, and get its errors in plain words."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from frcnn.errors import FrcnnError, UsageError, one_line
from frcnn.runtime.dependencies import import_ray

_CONNECT_SECONDS: Final = 5


def connect(address: str | None) -> ModuleType:
    """Return the module ``ray``, connected to a cluster."""
    known = address or os.environ.get("RAY_ADDRESS") or "local"
    if known == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if "ray" not in sys.modules:  # it is read by the import: listen on 127.0.0.1 only
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = import_ray()
    if ray.is_initialized():
        return ray
    hint = "is it running, and does RAY_AUTH_MODE say token if it wants one? without an address there is a new one here"
    try:
        if match := re.fullmatch(r"([^:/]+):(\d+)", known):  # Ray itself tries for two minutes, and ends the process
            socket.create_connection((match[1], int(match[2])), _CONNECT_SECONDS).close()
        ray.init(address=known, **({"include_dashboard": False} if known == "local" else {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {known}: {one_line(error)}", hint=hint) from error
    return ray


def room_for(ray: ModuleType, cpus: float, gpus: float) -> int:
    """Return how many workers the cluster has room for."""
    has = ray.cluster_resources()
    room = min(int(has.get(name, 0) / each) for name, each in (("CPU", cpus), ("GPU", gpus)) if each)
    if room < 1:
        what = f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {has.get('CPU', 0):g} and "
        raise UsageError(what + f"{has.get('GPU', 0):g}", hint="give workers= where it grows when asked")
    return room


@contextmanager
def plain_errors(ray: ModuleType) -> Iterator[None]:
    """Raise what Ray itself raises as an error of ours."""
    try:
        yield
    except ray.exceptions.RayError as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise FrcnnError(f"the job on Ray ended: {last}", hint="what is done is kept: run it again") from error
