"""What a build asks of CUDA before TensorRT is, some of whose releases end the process where it does not work."""

from __future__ import annotations

from typing import Any

import pytest

from frcnn.errors import KernelError, UsageError
from frcnn.exporter.engine import build_gpu
from frcnn.plugins.cuda import driver as cuda_driver

NEEDS = "--target tensorrt builds on an NVIDIA GPU, of the kind that the engine is for; found none"


def driver(monkeypatch: pytest.MonkeyPatch, statuses: dict[str, tuple[str, tuple[Any, ...]] | None]) -> None:
    """Have the driver return these statuses and results; None stands for no driver."""

    def ask(name: str, *_arguments: Any) -> tuple[str, tuple[Any, ...]]:
        answer = statuses.get(name)
        if answer is None:
            raise KernelError(f"the CUDA driver cannot be used ({name})")
        return answer

    for module in (build_gpu, cuda_driver):
        monkeypatch.setattr(module, "ask_driver", ask)


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ({}, f"{NEEDS}: there is no NVIDIA driver, or it is too old"),
        (
            {"cuDriverGetVersion": ("CUDA_SUCCESS", (13000,)), "cuInit": ("CUDA_ERROR_NO_DEVICE", ())},
            f"{NEEDS}: CUDA's cuInit returned CUDA_ERROR_NO_DEVICE",
        ),
        (
            {
                "cuDriverGetVersion": ("CUDA_SUCCESS", (13000,)),
                "cuInit": ("CUDA_SUCCESS", ()),
                "cuDeviceGet": ("CUDA_ERROR_INVALID_DEVICE", ()),
            },
            NEEDS,
        ),
    ],
)
def test_a_build_without_a_gpu_tells_what_is_missing(
    statuses: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(monkeypatch, statuses)
    monkeypatch.setattr(build_gpu, "cuda_major", lambda: 13)
    with pytest.raises(UsageError) as caught:
        build_gpu.require_gpu(())
    assert caught.value.message == message
    assert caught.value.hint == "build on such a system, or with --target tensorrt-rtx, which needs no GPU"


@pytest.mark.parametrize(("served", "wanted"), [(12040, 13), (11080, 12)])
def test_a_driver_that_is_older_than_the_cuda_of_tensorrt_is_refused(
    served: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(monkeypatch, {"cuDriverGetVersion": ("CUDA_SUCCESS", (served,))})
    monkeypatch.setattr(build_gpu, "cuda_major", lambda: wanted)
    with pytest.raises(UsageError) as caught:
        build_gpu.require_gpu(())
    assert caught.value.message == (
        f"--target tensorrt: the TensorRT here is for CUDA {wanted}, NVIDIA's driver here serves CUDA {served // 1000}"
    )
    assert caught.value.hint == (
        f"install a newer driver, or TensorRT for the driver's CUDA: pip install tensorrt-cu{served // 1000}"
    )


@pytest.mark.parametrize("major", [12, 13, None])
def test_a_driver_serves_its_own_cuda_and_older_ones(major: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, {"cuDriverGetVersion": ("CUDA_SUCCESS", (13010,))})
    monkeypatch.setattr(build_gpu, "cuda_major", lambda: major)
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    assert build_gpu.require_gpu(()) == "9.0"
