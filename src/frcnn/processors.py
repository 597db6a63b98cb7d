"""The processors that this process may use: in a container its share, not those of the whole system."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

_THREADS: Final = "OMP_NUM_THREADS"
_ROOT: Final = Path("/")


def available_cpus(root: Path = _ROOT) -> int:
    """Return the number of processors for this process, at least 1.

    That is the least of those that it may run on, the quotas of processor time of its control groups, rounded up, and
    ``OMP_NUM_THREADS``. The files of control groups are read below ``root``.
    """
    wanted = os.environ.get(_THREADS, "").partition(",")[0].strip()  # one for each level of nesting
    limits = [_affinity(), *_quotas(root)]
    if wanted.isdecimal() and int(wanted) > 0:
        limits.append(int(wanted))
    return max(1, math.ceil(min(limits)))


def keep_to_share(root: Path = _ROOT) -> None:
    """Set ``OMP_NUM_THREADS``, unless it is set, where a quota leaves less than the processors that libraries see.

    PyTorch and BLAS read it when they are loaded; else they start a thread for each of the system's processors.
    """
    if (share := available_cpus(root)) < _affinity():
        os.environ.setdefault(_THREADS, str(share))


def _affinity() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield the processors that this process' control groups, and those above them, have the time of."""
    try:
        groups, mounts = ((root / "proc/self" / name).read_text(errors="replace") for name in ("cgroup", "mountinfo"))
    except OSError:  # no Linux
        return
    paths: dict[str, str] = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        system, *_, options = kind.split()
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(system)
        if controller not in paths or (controller and controller not in options.split(",")):
            continue
        top, mount = place.split()[3:5]
        group = PurePosixPath()  # outside what is mounted: the mount is the group's own
        with suppress(ValueError):
            group = PurePosixPath(paths[controller]).relative_to(top)
        for part in (group, *group.parents):
            yield _quota(root / mount.lstrip("/") / part, controller)


def _quota(folder: Path, controller: str) -> float:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controller else ("cpu.max",)
    try:
        quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
    except (OSError, ValueError):  # not there, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
