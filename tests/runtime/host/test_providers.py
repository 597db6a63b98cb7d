"""frcnn.runtime.host.providers: which provider runs a model, on which device, in which precision."""

from __future__ import annotations

from typing import Any

import pytest

from frcnn.errors import UsageError
from frcnn.runtime.host.providers import check_precision, chosen_provider


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        (None, None, "cpu"),
        ("cpu", None, "cpu"),
        ("cpu", "cpu", "cpu"),
        ("cpu", "openvino", "openvino"),
        (None, "openvino", "openvino"),
        ("cuda", None, "cuda"),
        ("cuda", "cuda", "cuda"),
        (None, "tensorrt", "tensorrt"),
        ("cuda", "tensorrt", "tensorrt"),
    ],
)
def test_a_device_has_its_providers(device: Any, provider: Any, expected: str) -> None:
    assert chosen_provider(device, provider) == expected


@pytest.mark.parametrize(
    ("device", "provider", "message"),
    [
        ("cuda", "cpu", "provider: 'cpu' runs on device 'cpu', got device 'cuda'"),
        ("cpu", "cuda", "provider: 'cuda' runs on device 'cuda', got device 'cpu'"),
        ("cpu", "tensorrt", "provider: 'tensorrt' runs on device 'cuda', got device 'cpu'"),
        ("cuda", "openvino", "provider: 'openvino' runs on device 'cpu', got device 'cuda'"),
        ("cuda", "npu", "provider: expected one of cpu, cuda, tensorrt, openvino, tuned, got 'npu'"),
        ("gpu", None, "device: expected one of cpu, cuda, got 'gpu'"),
    ],
)
def test_a_provider_of_another_device_is_refused(device: Any, provider: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_provider(device, provider)


def test_only_openvino_takes_a_precision() -> None:
    check_precision("cpu", None)
    check_precision("openvino", "bf16")
    with pytest.raises(UsageError, match="precision: provider 'cpu' computes in the precision of the file, got 'fp32'"):
        check_precision("cpu", "fp32")
    with pytest.raises(UsageError, match="precision: expected one of fp32, bf16, got 'fp16'"):
        check_precision("openvino", "fp16")  # type: ignore[arg-type]
