"""Annotated images are found, decoded, detected in; what cannot be used is named; Ctrl-C keeps the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.engine_files import source_manifest

from frcnn.benchmarks.accuracy.images import collect
from frcnn.errors import ImageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth
from frcnn.runtime.dataset.files import find_images
from frcnn.runtime.host.backend import HostBackend


class OneBox:
    """A network that finds a cat over each whole image."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, images, image_sizes):
        count = len(images)
        self.batches.append(count)
        boxes = np.zeros((count, 1, 4), np.float32)
        boxes[:, 0, 2:] = image_sizes[:, ::-1]
        return NetworkOutput(
            num_detections=np.ones(count, np.int32),
            boxes=boxes,
            scores=np.full((count, 1), 0.5, np.float32),
            labels=np.ones((count, 1), np.int32),
        )

    def close(self) -> None:
        pass


@pytest.fixture
def network() -> OneBox:
    return OneBox()


@pytest.fixture
def detector(network) -> Detector:
    manifest = source_manifest(precision="fp32", canvases=((832, 832),))
    return Detector(HostBackend(network, manifest), manifest)


def saved(folder: Path, *names: str, size: tuple[int, int] = (64, 64)) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(folder / name)
    return folder


def ground_truth(*names: str, size: tuple[int, int] | None = (64, 64)) -> GroundTruth:
    images = tuple(AnnotatedImage(file_name=name, size=size) for name in names)
    return GroundTruth(source="set.json", categories={1: "cat"}, images=images)


def test_detections_keep_the_order_of_the_annotations(detector, network, tmp_path):
    folder = saved(tmp_path / "p", "c.png", "a.png", "deep/b.png", "other.png")
    files, missing = find_images(ground_truth("c.png", "deep/b.png", "a.png"), folder)
    found = collect(detector, files, batch_size=2)
    assert [image.ground_truth.file_name for image in found.images] == ["c.png", "deep/b.png", "a.png"]
    assert [image.model.boxes.tolist() for image in found.images] == [[[0, 0, 64, 64]]] * 3
    assert (missing, found.skipped, found.is_partial, network.batches) == ({}, {}, False, [2, 1])
    assert {image.eager for image in found.images} == {None}


def test_unusable_images_are_skipped_and_the_others_keep_their_annotations(detector, tmp_path):
    folder = saved(tmp_path / "p", "a.png", "b.png", "e.png")
    (folder / "b.png").write_bytes(b"no image")
    saved(folder, "c.png", size=(64, 60))
    saved(folder, "d.png", size=(32, 64))  # resized to 666 x 1333, which the canvas does not hold
    images = (
        *ground_truth("a.png", "b.png", "c.png").images,
        *ground_truth("d.png", size=None).images,
        *ground_truth("e.png").images,
    )
    files, _ = find_images(GroundTruth(source="set.json", categories={1: "cat"}, images=images), folder)
    found = collect(detector, files)
    assert [image.ground_truth.file_name for image in found.images] == ["a.png", "e.png"]
    assert list(found.skipped) == ["b.png", "c.png", "d.png"]
    assert "not an image" in found.skipped["b.png"]
    assert "c.png is 60x64 (width x height), its annotations are for 64x64" in found.skipped["c.png"]
    assert "fits none of the model's canvases" in found.skipped["d.png"]


def test_an_image_that_eager_cannot_use_is_skipped_for_both(detector, tmp_path):
    folder = saved(tmp_path / "p", "a.png", "b.png")
    seen = []

    def eager(image):
        seen.append(image)
        if image.name.endswith("a.png"):
            raise ImageError(f"{image.name}: torchvision cannot resize it")
        return Detections(boxes=np.zeros((0, 4)), scores=[], labels=[], image_size=image.size)

    found = collect(detector, find_images(ground_truth("a.png", "b.png"), folder)[0], eager=eager)
    assert [image.ground_truth.file_name for image in found.images] == ["b.png"]
    assert found.images[0].eager is not None and len(found.images[0].eager) == 0
    assert "torchvision cannot resize it" in found.skipped["a.png"]
    assert {image.pixels.shape for image in seen} == {(64, 64, 3)}


def test_an_interruption_keeps_the_detections(detector, tmp_path):
    names = [f"{i}.png" for i in range(6)]
    folder = saved(tmp_path / "p", *names)

    def eager(image):
        if image.name.endswith("3.png"):
            raise KeyboardInterrupt
        return Detections(boxes=np.zeros((0, 4)), scores=[], labels=[], image_size=image.size)

    found = collect(detector, find_images(ground_truth(*names), folder)[0], eager=eager)
    assert found.is_partial
    assert [image.ground_truth.file_name for image in found.images] == names[:3]
