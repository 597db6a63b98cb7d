"""The examples of direct launches, with stand-ins for CuPy and PyCUDA and kernels on the CPU.

tests/gpu runs them with the real ones, and that of PyTorch.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.host_driver import HostDriver
from support.simt import require_compiler

from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.cuda import launch
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "direct_launch"


class Array(np.ndarray[Any, Any]):
    """In host memory, with the interface of an array on a GPU."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__

    def get_async(self, *, stream: Any) -> Any:
        assert stream.handle == 5
        return np.array(self)


def array_of(values: Any, **options: Any) -> Any:
    return np.array(values).view(Array)


def empty(shape: Any, dtype: Any) -> Any:
    return np.full(shape, 7, dtype).view(Array)


class CuPyStream(SimpleNamespace):
    def __enter__(self) -> CuPyStream:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def cupy() -> dict[str, Any]:
    streams = SimpleNamespace(Stream=lambda **options: CuPyStream(ptr=5))
    types = {"float32": np.float32, "uint8": np.uint8}
    return {"cupy": SimpleNamespace(cuda=streams, asarray=array_of, empty=empty, **types)}


def pycuda() -> dict[str, Any]:
    stream = SimpleNamespace(handle=5, synchronize=lambda: None)
    context = SimpleNamespace(pop=lambda: None, detach=lambda: None)
    device = SimpleNamespace(make_context=lambda: context)
    driver = SimpleNamespace(init=lambda: None, Device=lambda index: device, Stream=lambda: stream)
    arrays = SimpleNamespace(to_gpu_async=array_of, empty=empty)
    package = SimpleNamespace(driver=driver, gpuarray=arrays)
    return {"pycuda": package, "pycuda.driver": driver, "pycuda.gpuarray": arrays}


@pytest.mark.parametrize("library", [cupy, pycuda])
def test_it_pools_and_detects_what_the_references_do(library, monkeypatch, capsys):
    require_compiler()
    monkeypatch.syspath_prepend(str(FOLDER))
    scene = importlib.import_module("scene")
    small = partial(scene.make_scene, images=1, rois=32, channels=4)
    monkeypatch.setattr(scene, "make_scene", small)
    for name, module in library().items():
        monkeypatch.setitem(sys.modules, name, module)
    driver = HostDriver()
    monkeypatch.setattr(launch, "cuda_driver", lambda: driver)
    monkeypatch.setattr(launch, "compile_kernel", lambda *arguments: b"")

    made = runpy.run_path(str(FOLDER / f"with_{library.__name__}.py"))
    given = small()
    rois, *head = map(torch.from_numpy, (given.rois, given.image_sizes, given.class_logits, given.box_deltas))
    pooled = multiscale_roi_align(rois, [torch.from_numpy(level) for level in given.maps], **scene.ALIGN)
    assert np.allclose(made["pooled"], pooled, rtol=0, atol=1e-5)
    count = int(box_detections(rois, *head, **scene.DETECT).num_detections)
    assert 8 <= count < 32
    assert capsys.readouterr().out == f"pooled (32, 4, 7, 7), {count} detections\n"
    assert {stream for _, _, stream in driver.launches} == {5}
