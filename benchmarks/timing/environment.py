"""The system that a run ran on, as far as it tells."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from frcnn._version import __version__
from frcnn.benchmarks.report.results import Environment, Gpu, GpuState
from frcnn.packages import installed_version
from frcnn.runtime.tuned import read_machine

_PACKAGES_TEXT: Final = """
    torch torchvision onnx onnxruntime onnxruntime-gpu openvino nncf tensorrt tensorrt-rtx-cu13 triton
    cuda-core cuda-bindings nvidia-cuda-nvrtc numpy opencv-python-headless
"""
_CPUS: Final = Path("/sys/devices/system/cpu")
_THROTTLE: Final = {
    "clocks_event_reasons.sw_power_cap": "power cap",
    "clocks_event_reasons.hw_slowdown": "hardware slowdown",
    "clocks_event_reasons.sw_thermal_slowdown": "thermal slowdown",
    "clocks_event_reasons.hw_power_brake_slowdown": "power brake",
}


def read_environment(
    *, command: str, threads: int, load_before: float | None, date: str | None = None, gpu: Gpu | None = None
) -> Environment:
    """Return the system, and how the run was started; ``date`` is of its beginning, by default now."""
    cores = os.cpu_count() or 1
    no_turbo, boost = _text(_CPUS / "intel_pstate/no_turbo"), _text(_CPUS / "cpufreq/boost")
    memory_bytes = None
    with suppress(ValueError, OSError, AttributeError):
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = {name: found for name in _PACKAGES_TEXT.split() if (found := installed_version(name))}
    return Environment(
        system=platform.machine(),
        cpu=read_machine().processor,
        cores=cores,
        affinity=tuple(sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(cores))),
        threads=threads,
        governor=_text(_CPUS / "cpu0/cpufreq/scaling_governor"),
        turbo=no_turbo == "0" if no_turbo is not None else None if boost is None else boost == "1",
        load_before=load_before,
        load_after=load_average(),
        memory_bytes=memory_bytes,
        gpu=gpu,
        packages=packages,
        frcnn=__version__,
        python=platform.python_version(),
        os=platform.platform(),
        date=date or now(),
        command=command,
    )


def now() -> str:
    """Return the time as ISO 8601 with the offset to UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def is_busy(load: float | None, processors: int) -> bool:
    """Return whether more processes are ready to run than half the processors; an idle system has next to none."""
    return (load or 0.0) > processors / 2


def load_average() -> float | None:
    """Return the mean number of processes ready to run in the last minute; None where the system does not tell."""
    with suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def read_gpu(states: Sequence[GpuState]) -> Gpu | None:
    """Return the first GPU, by PyTorch and nvidia-smi; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    driver = _nvidia_smi("driver_version")
    return Gpu(
        name=properties.name,
        driver=driver[0] if driver else "unknown",
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=properties.total_memory,
        states=tuple(states),
    )


def gpu_state(when: str) -> GpuState | None:
    """Return what the first GPU reports of itself now; None without nvidia-smi or a GPU."""
    values = _nvidia_smi("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", *_THROTTLE)
    if values is None:
        return None
    sm, memory, power, temperature = map(_number, values[:4])
    return GpuState(
        when=when,
        sm_clock_mhz=None if sm is None else int(sm),
        memory_clock_mhz=None if memory is None else int(memory),
        power_w=power,
        temperature_c=temperature,
        throttling=tuple(name for name, value in zip(_THROTTLE.values(), values[4:], strict=True) if value == "Active"),
    )


def _nvidia_smi(*fields: str) -> list[str] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return values if len(values) == len(fields) else None


def _number(text: str) -> float | None:
    with suppress(ValueError):
        return float(text)
    return None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text().strip()
    return None
