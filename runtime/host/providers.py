"""The providers of a ``model.onnx``: what runs it, on which device, and in which precision."""

from __future__ import annotations

from typing import Final, Literal

from frcnn.errors import UsageError, did_you_mean
from frcnn.runtime.backend import Device
from frcnn.spec.tuning import ARITHMETIC, Arithmetic

RunProvider = Literal["cpu", "cuda", "tensorrt", "openvino"]
"""ONNX Runtime's ``cpu``, ``cuda`` and ``tensorrt``, or OpenVINO on the CPU."""

Provider = RunProvider | Literal["tuned"]
"""A provider, or ``tuned``: the one that ``frcnn tune`` chose for the file on this system."""

RunPrecision = Arithmetic
"""What OpenVINO computes float layers in."""

_DEVICES: Final[dict[Provider, Device]] = {
    "cpu": "cpu",
    "cuda": "cuda",
    "tensorrt": "cuda",
    "openvino": "cpu",
    "tuned": "cpu",
}
PROVIDERS: Final = tuple(_DEVICES)
_DEFAULTS: Final[dict[Device, RunProvider]] = {"cpu": "cpu", "cuda": "cuda"}


def chosen_provider(device: Device | None, provider: Provider | None) -> Provider:
    """Return the provider to run with: the caller's choice, or the device's own; without either the CPU's."""
    if device is not None and device not in _DEFAULTS:
        hint = did_you_mean(device, _DEFAULTS)
        raise UsageError(f"device: expected one of {', '.join(_DEFAULTS)}, got {device!r}", hint=hint)
    if provider is None:
        return _DEFAULTS[device or "cpu"]
    if provider not in _DEVICES:
        hint = did_you_mean(provider, PROVIDERS)
        raise UsageError(f"provider: expected one of {', '.join(PROVIDERS)}, got {provider!r}", hint=hint)
    if device not in (None, _DEVICES[provider]):
        raise UsageError(
            f"provider: {provider!r} runs on device {_DEVICES[provider]!r}, got device {device!r}",
            hint=f"give device {_DEVICES[provider]!r}, or provider {_DEFAULTS[device]!r}",
        )
    return provider


def check_precision(provider: Provider, precision: RunPrecision | None) -> None:
    """Refuse a precision that is unknown, or given to a provider that takes it from the file."""
    if precision is None:
        return
    if precision not in ARITHMETIC:
        raise UsageError(f"precision: expected one of {', '.join(ARITHMETIC)}, got {precision!r}")
    if provider != "openvino":
        raise UsageError(
            f"precision: provider {provider!r} computes in the precision of the file, got {precision!r}",
            hint="give provider 'openvino', or leave precision out",
        )
