"""The PyCUDA example with stand-ins for PyCUDA and the detector; tests/gpu runs it with the real ones."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

import frcnn.runtime

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "pycuda_detect" / "detect.py"


class Stream:
    def __init__(self) -> None:
        self.is_done = False

    def synchronize(self) -> None:
        self.is_done = True


class GPUArray:
    """On the host; like PyCUDA's, a view of the memory that it is given."""

    def __init__(self, shape: Any, dtype: Any, *, base: Any = None, gpudata: Any = None) -> None:
        self.shape, self.dtype, self.base, self.gpudata = shape, dtype, base, gpudata

    def get_async(self, *, stream: Stream) -> Any:
        stream.is_done = False
        return np.array(self.base.contents)


class Detector:
    labels = ("background", "cat", "dog")
    calls: list[tuple[Any, ...]] = []  # noqa: RUF012 # of the one test

    @classmethod
    def load(cls, path: Path) -> Detector:
        assert path.name == "model.frcnn"
        return cls()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *error: object) -> None:
        self.calls.append(("closed",))

    def __call__(self, images: Any, *, stream: Stream, device_output: bool) -> list[Any]:
        self.calls.append((images, stream, device_output))

        def array(values: Any, kind: Any) -> Any:
            contents = np.array(values, kind)
            return SimpleNamespace(shape=contents.shape, dtype=contents.dtype, pointer=4096, contents=contents)

        return [
            SimpleNamespace(
                num_detections=array([2], np.int32),
                boxes=array([[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]], np.float32),
                scores=array([0.9, 0.4, 0], np.float32),
                labels=array([2, 1, 0], np.int32),
                to_image=np.array([2, 2, 2, 2], np.float32),
            )
            for _ in images
        ]


def test_it_prints_the_detections(tmp_path, monkeypatch, capsys):
    uploaded: list[Any] = []

    def to_gpu_async(array: Any, *, stream: Stream) -> GPUArray:
        uploaded.append(array)
        return GPUArray(array.shape, array.dtype, gpudata=array)

    modules = {name: ModuleType(name) for name in ("pycuda", "pycuda.autoinit", "pycuda.driver", "pycuda.gpuarray")}
    modules["pycuda.autoinit"].device = SimpleNamespace(name=lambda: "A GPU")  # type: ignore[attr-defined]
    modules["pycuda.driver"].__dict__.update(Stream=Stream, pagelocked_empty=np.empty)
    modules["pycuda.gpuarray"].__dict__.update(GPUArray=GPUArray, to_gpu_async=to_gpu_async)
    modules["pycuda"].__dict__.update(
        {name.partition(".")[2]: module for name, module in modules.items() if "." in name}
    )
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(frcnn.runtime, "Detector", Detector)
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "photo.png")

    monkeypatch.setattr(sys, "argv", ["detect.py", "model.frcnn", str(tmp_path / "photo.png")])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    ((images, stream, on_device), closed) = Detector.calls
    assert on_device and stream.is_done and closed == ("closed",)
    assert [image.shape for image in images] == [(4, 6, 3)]
    assert np.array_equal(uploaded[0], pixels)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'photo.png'}: 6 x 4 pixels, 2 detections",
        "  dog 0.900 at 2.0, 4.0, 6.0, 8.0",
        "on A GPU, in PyCUDA's own context",
    ]
