"""What the GPU measurements share: whether there is a GPU, and what system it is in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from frcnn.benchmarks.timing.environment import gpu_state, load_average, now, read_environment, read_gpu


def has_gpu(what: str) -> bool:
    """Return whether PyTorch finds a GPU; print an error where it does not."""
    if torch.cuda.is_available():
        return True
    print(f"error: {what} needs an NVIDIA GPU and its driver, and there is none here", file=sys.stderr)
    return False


def describe_system(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the system as ``results.json`` has it, with the GPU's name as ``device``, and what bounds its kernels."""
    state = gpu_state("before")
    environment = read_environment(
        command=" ".join([f"python -m {module}", *arguments]),
        threads=torch.get_num_threads(),
        load_before=load_average(),
        date=now(),
        gpu=read_gpu([] if state is None else [state]),
    )
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "versions": environment.packages,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "torch_cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),
        **msgspec.to_builtins(environment),
    }
