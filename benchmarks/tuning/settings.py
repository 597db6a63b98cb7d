"""The settings that there are on a machine, and which of two is the simpler."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product
from typing import Final

from msgspec.structs import replace

from frcnn.spec.tuning import ARITHMETIC, HOST_PROVIDERS, HostProvider, Setting

__all__ = ["BATCHES", "base_settings", "simplicity", "with_batches", "with_fewer_threads"]

BATCHES: Final = (2, 4)


def base_settings(
    providers: Collection[HostProvider], *, has_int8: bool, has_bf16: bool, processors: int
) -> list[Setting]:
    """Return one setting of each model, provider and precision: all processors, one image at a time.

    The first is the reference: the model itself, in float32, by the simplest provider. ONNX Runtime computes in float32
    only.
    """
    return [
        Setting(int8=int8, provider=provider, precision=precision, threads=processors, batch=1)
        for int8, precision, provider in product((False, True), ARITHMETIC, HOST_PROVIDERS)
        if provider in providers
        and (has_int8 or not int8)
        and (precision == "fp32" or (has_bf16 and provider != "cpu"))
    ]


def with_fewer_threads(setting: Setting) -> Iterator[Setting]:
    """Yield the setting with half the threads, and with one: a second thread of a core may slow the first."""
    for threads in dict.fromkeys((setting.threads // 2, 1)):
        if 1 <= threads < setting.threads:
            yield replace(setting, threads=threads)


def with_batches(setting: Setting) -> Iterator[Setting]:
    """Yield the setting with larger batches."""
    for batch in BATCHES:
        yield replace(setting, batch=batch)


def simplicity(setting: Setting) -> tuple[bool, int, int, int, int]:
    """Return a key that is lower for the setting that wins where two are as fast.

    The model itself before int8, float32 before bf16, ONNX Runtime before OpenVINO, one image at a time, all threads.
    """
    return (
        setting.int8,
        ARITHMETIC.index(setting.precision),
        list(HOST_PROVIDERS).index(setting.provider),
        setting.batch,
        -setting.threads,
    )
