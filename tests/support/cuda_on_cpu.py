"""Measurements for a GPU on the CPU: PyTorch's ``cuda`` is the CPU, and our device the fake one."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import maintenance.eager_forms as eager_forms
import numpy as np
import pytest
import torch

from support.fake_device import FakeDevice
from support.simt import require_compiler

__all__ = ["KeptDevice", "let_cuda_be_the_cpu"]


class OnDevice(torch.Tensor):
    """A tensor that also lies in the fake device's memory."""

    interface: dict[str, Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


class KeptDevice(FakeDevice):
    """One device for every detector that is opened on it."""

    def close(self) -> None:
        return

    def draw(self, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        """Return noise (height, width, 3) uint8 that is also in this device's memory."""
        pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
        drawn = torch.from_numpy(pixels).as_subclass(OnDevice)
        drawn.interface = self.array(pixels).__cuda_array_interface__
        return drawn


def one_call(call: Any) -> float:
    """Make a call, and tell that it took the GPU 1.5 ms."""
    call()
    return 1.5


def let_cuda_be_the_cpu(monkeypatch: pytest.MonkeyPatch) -> KeptDevice:
    """Let ``cuda`` be the CPU, with a stopwatch that makes each call once; return the device of everything."""
    require_compiler()
    device = KeptDevice()
    current = SimpleNamespace(wait_stream=lambda other: device.run_all(other.handle), cuda_stream=0)
    monkeypatch.setattr(eager_forms, "cuda_ms", one_call)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle: SimpleNamespace(handle=handle, wait_stream=id))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    return device
