"""A small run of every kernel for compute-sanitizer, in memory of the exact size from the driver.

``compute-sanitizer --tool memcheck python tests/gpu/sanitized.py``; with ``--rehearse`` the kernels are compiled for
compute capability 9.0, memory is NumPy's, and nothing is launched, so that no GPU is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

import numpy as np
from cuda.bindings import driver as cuda
from numpy.typing import NDArray

from frcnn.plugins.cuda.driver import Driver
from frcnn.plugins.cuda.launch import LoadedOperator, load_operator, load_preprocess
from frcnn.plugins.kernel import ELEMENT_BYTES, Kernel, Launch
from frcnn.spec import ResizeRule

ELEMENTS = ("float32", "float16", "bfloat16")
TYPESTR = {"float32": "<f4", "float16": "<f2", "bfloat16": "<V2", "int32": "<i4", "int64": "<i8", "uint8": "|u1"}
LAYOUTS = (("planar", "planar"), ("channels_last", "planar"), ("channels_last", "channels_last"))


class Rehearsal:
    """A driver that takes machine code for compute capability 9.0 and launches nothing."""

    def architecture(self) -> str:
        return "sm_90"

    def is_reachable(self, pointer: int) -> bool:
        return True

    def load(self, kernel: Kernel, code: bytes) -> Any:
        assert code.startswith(b"\x7fELF"), "no machine code"

    def launch(self, handle: Any, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        assert all(pointer % 16 == 0 for pointer in pointers)


DRIVER: Driver | None = Rehearsal() if "--rehearse" in sys.argv else None


def ok(result: tuple[Any, ...]) -> Any:
    assert result[0] == cuda.CUresult.CUDA_SUCCESS, result
    return result[1] if len(result) > 1 else None


class DeviceArray:
    """Device memory of exactly its bytes, uninitialised unless contents are given."""

    def __init__(self, shape: tuple[int, ...], element: str, *, last: bool = False, contents: Any = None) -> None:
        count = int(np.prod(shape))
        item = 1 if element == "uint8" else ELEMENT_BYTES[element]
        self.bytes = count * item
        self.pointer = allocate(self.bytes) if count else 0
        if contents is not None and count:
            raw = np.ascontiguousarray(contents)
            assert raw.nbytes == self.bytes
            if DRIVER is None:
                ok(cuda.cuMemcpyHtoD(self.pointer, raw.ctypes.data, self.bytes))
        _, c, h, w = shape if last else (0, 0, 0, 0)
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": TYPESTR[element],
            "data": (self.pointer, False),
            "strides": (c * h * w * item, item, c * w * item, c * item) if last else None,
            "version": 3,
        }

    def read(self) -> None:
        """Copy everything to the host, so that initcheck reports bytes that were never written."""
        raw = np.empty(self.bytes, np.uint8)
        ok(cuda.cuMemcpyDtoH(raw.ctypes.data, self.pointer, self.bytes))


def allocate(size_bytes: int) -> int:
    if DRIVER is None:
        return int(ok(cuda.cuMemAlloc(size_bytes)))
    KEPT.append(np.empty(size_bytes + 256, np.uint8))
    return int(KEPT[-1].ctypes.data + 255) & ~255


KEPT: list[NDArray[np.uint8]] = []


def call(operator: LoadedOperator, *arrays: DeviceArray, stream: Any, last: bool = False, **sizes: int) -> None:
    shapes = [array.__cuda_array_interface__["shape"] for array in arrays]
    outputs = [
        DeviceArray(shape, tensor.element, last=last)
        for tensor, shape in zip(operator.outputs, operator.output_shapes(*shapes, **sizes), strict=True)
    ]
    scratch = DeviceArray((operator.scratch_bytes(*shapes, **sizes),), "uint8")
    operator(*arrays, out=outputs, scratch=scratch, stream=int(stream))
    if DRIVER is None:
        ok(cuda.cuStreamSynchronize(stream))
        for output in outputs:
            output.read()


def drawn(rng: np.random.Generator, shape: tuple[int, ...], element: str) -> DeviceArray:
    """Return numbers near 0, all finite."""
    values = rng.normal(0, 2, shape).astype(np.float32)
    if element == "bfloat16":
        return DeviceArray(shape, element, contents=(values.view(np.uint32) >> 16).astype(np.uint16))
    return DeviceArray(shape, element, contents=values.astype(element))


def sizes_of(images: int) -> DeviceArray:
    return DeviceArray((images, 2), "int32", contents=np.array([[64, 90]] * images, np.int32))


def run_proposals(stream: Any, rng: np.random.Generator) -> None:
    """One level and three, few candidates and as many as a block sorts, chunks that are not full."""
    coder = {"box_weights": (1.0,) * 4, "max_log_scale": 4.0, "score_threshold": 0.0, "min_size": 1e-3}
    for element in ELEMENTS:
        for maps, top_n in (([(16, 24), (8, 12), (3, 5)], 50), ([(80, 70)], 4096), ([(80, 70)], 6144), ([(1, 1)], 7)):
            anchors = [v for level in range(len(maps)) for v in (level, -8, -8, 8, 8, level, -4, -9, 4, 9)]
            operator = load_operator(
                "RegionProposals",
                element=element,
                anchors=tuple(map(float, anchors)),
                pre_nms_top_n=top_n,
                post_nms_top_n=300,
                iou_threshold=0.7,
                driver=DRIVER,
                **coder,
            )
            logits = [drawn(rng, (2, 2, *size), element) for size in maps]
            deltas = [drawn(rng, (2, 8, *size), element) for size in maps]
            call(operator, sizes_of(2), drawn(rng, (2, 3, 64, 96), element), *logits, *deltas, stream=stream)


def run_detections(stream: Any, rng: np.random.Generator) -> None:
    """A row, a few, as many as a block sorts."""
    coder = {"box_weights": (10.0, 10.0, 5.0, 5.0), "max_log_scale": 4.0, "min_size": 1e-2}
    for element in ELEMENTS:
        for images, count, classes in ((1, 1, 2), (2, 33, 7), (1, 1000, 21), (1, 4096, 2)):
            start = rng.uniform(0, 60, (images, count, 2))
            rois = np.concatenate([start, start + rng.uniform(1, 30, start.shape)], axis=2).astype(np.float32)
            operator = load_operator(
                "BoxDetections",
                element=element,
                score_threshold=0.05,
                iou_threshold=0.5,
                max_detections=100,
                driver=DRIVER,
                **coder,
            )
            heads = [drawn(rng, (images * count, width), element) for width in (classes, 4 * classes)]
            given = DeviceArray(rois.shape, "float32", contents=rois)
            call(operator, given, sizes_of(images), *heads, stream=stream)


def run_pooling(stream: Any, rng: np.random.Generator) -> None:
    shared = {"spatial_scales": [0.25, 0.125], "level_thresholds": [40.0], "output_height": 7, "output_width": 7}
    start = rng.uniform(-20, 90, (2, 9, 2))
    rois = np.concatenate([start, start + rng.uniform(0, 90, start.shape)], axis=2).astype(np.float32)
    for element in ELEMENTS:
        for layout, output_layout in LAYOUTS:
            form: dict[str, Any] = {"element": element, "layout": layout, "output_layout": output_layout}
            form["driver"] = DRIVER
            operators = [
                load_operator("MultiscaleRoIPool", **form, **shared),
                load_operator("MultiscaleRoIAlign", **form, **shared, sampling_ratio=2, aligned=0),
                load_operator("MultiscaleRoIAlign", **form, **shared, sampling_ratio=0, aligned=1),
            ]
            maps = []
            for height, width in ((24, 30), (12, 15)):
                raw = rng.integers(0, 64, 2 * 40 * height * width * ELEMENT_BYTES[element], dtype=np.uint8)
                maps.append(DeviceArray((2, 40, height, width), element, last=layout == "channels_last", contents=raw))
            for operator in operators:
                given = DeviceArray(rois.shape, "float32", contents=rois)
                call(operator, given, *maps, stream=stream, last=output_layout == "channels_last")


def run_preprocess(stream: Any, rng: np.random.Generator) -> None:
    shapes = ((50, 61), (7, 90))
    images = [DeviceArray((*s, 3), "uint8", contents=rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in shapes]
    rows = [(p.pointer, h, w, 3 * w, 3, 1, h, 2 * w) for p, (h, w) in zip(images, shapes, strict=True)]
    table = DeviceArray((2, 8), "int64", contents=np.array(rows, np.int64))
    for element, rule in product(ELEMENTS, get_args(ResizeRule)):
        operator = load_preprocess(
            element=element, image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.4), resize=rule, driver=DRIVER
        )
        call(operator, table, stream=stream, H=64, W=193)


def main() -> None:
    stream: Any = 1
    if DRIVER is None:
        ok(cuda.cuInit(0))
        device = ok(cuda.cuDeviceGet(0))
        ok(cuda.cuCtxSetCurrent(ok(cuda.cuDevicePrimaryCtxRetain(device))))
        stream = ok(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
    rng = np.random.default_rng(0)
    run_proposals(stream, rng)
    run_detections(stream, rng)
    run_pooling(stream, rng)
    run_preprocess(stream, rng)
    print("every kernel ran")


if __name__ == "__main__":
    main()
