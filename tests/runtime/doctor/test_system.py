"""frcnn.runtime.doctor.system; ``frcnn doctor`` itself is tested with the commands."""

from __future__ import annotations

import platform

import pytest

from frcnn.runtime.doctor import system


def test_the_system_is_named_with_its_architecture_and_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "release", lambda: "6.1")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(system, "available_cpus", lambda: 2)
    monkeypatch.setattr(system.os, "cpu_count", lambda: 8)
    assert system._system().detail == "Linux 6.1 aarch64, 2 of 8 CPUs"
