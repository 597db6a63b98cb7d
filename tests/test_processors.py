"""frcnn.processors: a container's share of the processors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from frcnn.processors import available_cpus, keep_to_share

V2 = "31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """30 23 0:27 / /proc rw - proc proc rw
31 23 0:28 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 23 0:29 {top} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
33 23 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V1_GROUPS = "5:cpu,cpuacct:{path}\n4:cpuset:{path}\n1:name=systemd:{path}\n0::{path}\n"
CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture(autouse=True)
def sixty_four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def system(root: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_1(root: Path, path: str, top: str, quotas: Mapping[str, tuple[int, int]]) -> Path:
    files = {}
    for folder, (quota, period) in quotas.items():
        files |= {f"{CPU}{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{CPU}{folder}/cpu.cfs_period_us": f"{period}\n"}
    return system(root, V1_GROUPS.format(path=path), V1.format(top=top), files)


def test_the_cpus_are_those_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert available_cpus(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(tmp_path) == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("6400000 50000", 64)],
)
def test_a_quota_counts_rounded_up(tmp_path: Path, text: str, expected: int) -> None:
    assert available_cpus(system(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": f"{text}\n"})) == expected


def test_the_tightest_quota_up_the_tree_counts(tmp_path: Path) -> None:
    pod = "sys/fs/cgroup/kubepods/pod7"
    files = {
        f"{pod}/box/cpu.max": "max 100000",
        f"{pod}/cpu.max": "300000 100000",
        f"{pod}/../cpu.max": "900000 100000",
    }
    assert available_cpus(system(tmp_path, "0::/kubepods/pod7/box\n", V2, files)) == 3


@pytest.mark.parametrize(
    ("path", "top", "quotas", "expected"),
    [
        ("/docker/1f", "/docker/1f", {"": (250_000, 100_000)}, 3),  # docker mounts the container's own group
        ("/docker/1f", "/", {"/docker/1f": (-1, 100_000), "/docker": (100_000, 50_000)}, 2),
        ("/elsewhere", "/docker/1f", {"": (400_000, 100_000)}, 4),
        ("/", "/", {"": (-1, 100_000)}, 64),
    ],
)
def test_version_1_of_control_groups(
    tmp_path: Path, path: str, top: str, quotas: dict[str, tuple[int, int]], expected: int
) -> None:
    assert available_cpus(version_1(tmp_path, path, top, quotas)) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("4,2", 4), ("100", 64), ("0", 64), ("-1", 64), ("many", 64), ("", 64)]
)
def test_the_number_of_openmp_threads_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert available_cpus(tmp_path) == expected


def test_libraries_are_told_of_a_quota_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    keep_to_share(tmp_path)
    assert "OMP_NUM_THREADS" not in os.environ
    quota = system(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": "200000 100000"})
    keep_to_share(quota)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    os.environ["OMP_NUM_THREADS"] = "7"  # who sets it has a reason
    keep_to_share(quota)
    assert os.environ["OMP_NUM_THREADS"] == "7"
