"""Whole exported models on the fake device: ONNX Runtime's engines, the operators' kernels, workers and graphs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.exports import Exported, Exports
from support.fake_device import FakeDevice
from support.images import LANDSCAPE, PORTRAIT, photographs, tensor
from support.staged_artifact import StagedArtifact
from support.tiny_artifact import profile

from frcnn.benchmarks.parity.matching import match
from frcnn.runtime import Detections, Detector

PROFILE = profile((1, 3), (96, 320), (96, 320))
BOUNDS = {
    "vgg16": (0.02, 1e-4),
    "resnet18_fpn_max": (0.02, 1e-4),
    "resnet50_fpn": (0.02, 1e-4),
    "mobilenet_v3_large_fpn": (0.05, 5e-4),
}
"""Family -> pixels and score. Random weights amplify rounding: eager with oneDNN and without differs by up to 0.019 px
and 6e-5 on these pictures of the last."""


def pictures() -> list[NDArray[np.uint8]]:
    """Return six of two canvases, in turn, and of different sizes on each."""
    wide, high = photographs(LANDSCAPE), photographs(PORTRAIT)
    smaller = wide[1][:-3, :-4], high[1][:-3, :-4]
    return [wide[0], high[0], smaller[0], smaller[1], wide[2], high[2]]


def as_floats(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def eager(export: Exported, images: list[NDArray[np.uint8]]) -> list[Detections]:
    with torch.no_grad():
        outputs = [export.model([tensor(image)])[0] for image in images]
    return [
        Detections(
            boxes=output["boxes"].numpy(),
            scores=output["scores"].numpy(),
            labels=output["labels"].numpy(),
            image_size=image.shape[:2],
        )
        for output, image in zip(outputs, images, strict=True)
    ]


def same(found: Detections, expected: Detections, *, px: float, score: float) -> None:
    assert found.image_size == expected.image_size
    assert len(found) == len(expected) > 5
    at, to = match(expected, found).pairs.T  # those whose scores differ by less than the bound may change places
    assert len(at) == len(expected)
    np.testing.assert_array_equal(found.labels[to], expected.labels[at])
    np.testing.assert_allclose(found.scores[to], expected.scores[at], atol=score, rtol=0)
    np.testing.assert_allclose(found.boxes[to], expected.boxes[at], atol=px, rtol=0)


@contextmanager
def loaded(export: Exported, device: FakeDevice, **options: Any) -> Iterator[Detector]:
    artifact = StagedArtifact(export, (PROFILE,))
    with Detector(artifact.backend(device, **options), export.manifest) as detector:
        yield detector
    assert device.left_open() == {}


@pytest.mark.parametrize("family", BOUNDS)
def test_detections_are_those_of_eager(exports: Exports, device: FakeDevice, family: str) -> None:
    export, images = exports(family), pictures()
    px, score = BOUNDS[family]
    expected = eager(export, images)
    with loaded(export, device) as detector:
        kinds = images, [as_floats(image) for image in images], [device.array(image) for image in images]
        for batch_size, given in zip((3, 1, 2), kinds, strict=True):  # each shape is run plainly, captured, replayed
            for found, wanted in zip(detector(given, batch_size=batch_size), expected, strict=True):
                same(found, wanted, px=px, score=score)


def test_half_precision_detects_what_onnx_runtime_does(exports: Exports, device: FakeDevice) -> None:
    """Maps and pooled features are float16, channels-last; that may move a detection (decision 0011), but few."""
    export = exports("resnet18_fpn_max", "fp16")
    images = [as_floats(image) for image in photographs(LANDSCAPE)]
    with Detector.load(export.path, threads=1) as portable, loaded(export, device) as detector:
        moved = []
        for found, expected in zip(detector(images, batch_size=2), portable(images, batch_size=2), strict=True):
            same(found, expected, px=5, score=5e-3)
            at, to = match(expected, found).pairs.T
            moved += list(np.abs(found.boxes[to] - expected.boxes[at]).max(axis=1) > 1e-3)
    assert sum(moved) <= 0.05 * len(moved)


def test_threads_detect_what_one_does(exports: Exports, device: FakeDevice) -> None:
    images = pictures()
    with loaded(exports("vgg16"), device, workers=3) as detector:
        expected = detector(images)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda i: detector([images[i % 6]])[0], range(24)))
    for found, wanted in zip(results, 4 * expected, strict=True):
        same(found, wanted, px=0, score=0)


@pytest.mark.parametrize(
    ("family", "pooling"), [("vgg16", "multiscale_roi_pool"), ("resnet50_fpn", "multiscale_roi_align")]
)
def test_a_picture_takes_two_networks_and_ten_kernels(
    exports: Exports, device: FakeDevice, family: str, pooling: str
) -> None:
    with loaded(exports(family), device) as detector:
        for _ in range(2):
            detector([photographs(LANDSCAPE)[0]])
        (worker,) = detector._backend._pool._free  # type: ignore[attr-defined]
        (pipeline,) = worker.pipelines.values()
        stages = [f"region_proposals_{stage}" for stage in ("select", "rank", "overlaps", "resolve", "merge")]
        chosen = [f"box_detections_{stage}" for stage in ("candidates", "suppress", "select")]
        assert [work.name for work in pipeline._graph.works] == [
            *["copy"] * 2,
            "preprocess",
            "network",
            *stages,
            pooling,
            "network",
            *chosen,
            "copy",
        ]
