"""This machine and its packages, as far as they decide how fast a model runs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from frcnn._version import __version__
from frcnn.errors import printable
from frcnn.packages import installed_version
from frcnn.processors import available_cpus
from frcnn.spec.tuning import HostProvider, Machine

_CPU_INFO: Final = Path("/proc/cpuinfo")
_FEATURES_TEXT: Final = """
    avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 amx_fp16 avx10_2
    asimd asimdhp asimddp bf16 i8mm sve sve2 sme
"""
_X86: Final = ("vendor_id", "cpu family", "model", "stepping")
_ARM: Final = ("CPU implementer", "CPU variant", "CPU part", "CPU revision")

PACKAGES: Final[Mapping[HostProvider, str]] = {"cpu": "onnxruntime", "openvino": "openvino"}
"""The package of each provider, which is also its module."""

_DISTRIBUTIONS: Final = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime"), "openvino": ("openvino",)}


def read_machine() -> Machine:
    """Return the processor, by what the system tells of its first one, and how many this process may use."""
    told: dict[str, str] = {}
    with suppress(OSError):
        first = _CPU_INFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        for line in first.splitlines():
            name, _, value = line.partition(":")
            told[name.strip()] = printable(value.strip())
    features = set(told.get("flags", told.get("Features", "")).split())
    return Machine(
        processor=told.get("model name") or platform.processor() or platform.machine(),
        signature=" ".join(f"{name} {told[name]}" for name in (*_X86, *_ARM) if name in told),
        features=tuple(sorted(features & {*_FEATURES_TEXT.split()})),
        processors=available_cpus(),
    )


def read_versions() -> dict[str, str]:
    """Return the versions of frcnn and of the packages that run a model in host memory, without importing them."""
    versions = {"frcnn": __version__}
    for package, distributions in _DISTRIBUTIONS.items():
        for name in distributions:
            if found := installed_version(name):
                versions[package] = found
    return versions
