"""The GPU's tests of the stages, run on the CPU with few RoIs: they compare what they say."""

from __future__ import annotations

from typing import Any

import gpu.test_operators as on_gpu
import pytest
from support.host_driver import HostArray, HostDriver
from support.simt import require_compiler

from frcnn.plugins.cuda.arrays import ArrayView
from frcnn.plugins.cuda.driver import LoadedKernel
from frcnn.plugins.cuda.launch import LoadedOperator
from frcnn.plugins.operator_kernels import kernels_for

pytestmark = pytest.mark.slow


class OnTensors(LoadedOperator):
    """An operator on the host whose arrays are PyTorch's tensors."""

    def __call__(self, *arrays: Any, out: Any, stream: Any, scratch: Any = None) -> None:
        outputs = [HostArray(tensor) for tensor in out]
        super().__call__(*map(HostArray, arrays), out=outputs, stream=stream, scratch=HostArray(scratch))


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler()
    driver = HostDriver()

    def load(name: str, **attributes: Any) -> OnTensors:
        kernels = kernels_for(name, attributes)
        return OnTensors(name, [LoadedKernel(kernel=k, handle=driver.load(k, b""), driver=driver) for k in kernels])

    monkeypatch.setattr(on_gpu, "load_operator", load)
    monkeypatch.setattr(ArrayView, "check_memory", lambda self: None)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("element", ["float32", "bfloat16"])
def test_proposals(element: str, exact: bool) -> None:
    on_gpu.test_proposals_are_those_of_the_reference("cpu", 0, element, 2, 3, 2, 60, 50, exact)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("element", ["float32", "float16"])
def test_detections(element: str, exact: bool) -> None:
    on_gpu.test_detections_are_those_of_the_reference("cpu", 0, element, 2, 60, 9, 20, exact)
