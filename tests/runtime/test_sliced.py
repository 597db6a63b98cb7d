"""Detector.sliced, and streams of slices: on the stand-in model, a real one, and the fake GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.concurrent_calls import bits
from support.fake_device import FakeDevice
from support.tiny_artifact import TinyArtifact
from support.tiny_detector import noise

from frcnn.errors import ImageError, ImageSizeError, UsageError
from frcnn.runtime import Detections, Detector, RGBImage, Slicing
from frcnn.spec import Manifest

Grey = Callable[..., np.ndarray]
ManifestOf = Callable[..., Manifest]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Detector:
    return Detector.load(tiny_model, threads=1)


@pytest.mark.parametrize("merge", ["nms", "weighted"])
def test_an_image_that_fits_in_a_slice_has_the_same_detections_to_the_bit(tiny: Detector, merge: str) -> None:
    images = [noise(1, 64, 80), noise(2, 80, 80)]
    found = tiny.sliced(images, size=80, merge=merge, iou=0.1)  # type: ignore[arg-type]
    expected = tiny(images)
    assert [bits(one) for one in found] == [bits(one) for one in expected]
    assert len(found[0])


def test_boxes_are_moved_by_the_origins_of_their_slices(tiny: Detector) -> None:
    """Of all that each slice has, nothing is merged; so what is found is what is in the slices, in falling score."""
    large = noise(3, 150, 200)
    (found,) = tiny.sliced([large], size=100, overlap=0.5, iou=1.0)
    rows = [(one, 0, 0) for one in tiny([large])]
    for top in (0, 50):
        for left in (0, 50, 100):
            rows += [(one, left, top) for one in tiny([large[top : top + 100, left : left + 100]])]
    boxes = np.concatenate([one.boxes + np.float32([x, y, x, y]) for one, x, y in rows])
    scores = np.concatenate([one.scores for one, *_ in rows])
    labels = np.concatenate([one.labels for one, *_ in rows])
    order = np.argsort(-scores, kind="stable")
    assert np.array_equal(found.boxes, boxes[order])
    assert np.array_equal(found.scores, scores[order])
    assert np.array_equal(found.labels, labels[order])
    assert (found.image_size, found.source, found.label_names) == ((150, 200), None, tiny.labels)
    (without,) = tiny.sliced([large], size=100, overlap=0.5, iou=1.0, whole=False)
    assert len(without) == len(found) - len(rows[0][0])


@pytest.mark.parametrize("slicing", [Slicing(size=50), Slicing(size=70, overlap=0.4, merge="weighted", whole=False)])
def test_batches_streams_and_filters_change_nothing(tiny: Detector, tmp_path: Path, slicing: Slicing) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(noise(4, 130, 90)).save(file)
    images = [file, noise(5, 60, 200), noise(6, 40, 30), noise(6, 40, 30)]
    expected = [tiny.sliced([image], **_options(slicing))[0] for image in images]
    assert expected[0].source == str(file)
    for batch_size in (1, 3):
        found = list(tiny.stream(images, batch_size=batch_size, slicing=slicing))
        assert [one.image_size for one in found] == [(130, 90), (60, 200), (40, 30), (40, 30)]
        for one, own in zip(found, expected, strict=True):  # a batch may round otherwise
            assert one.labels.tolist() == own.labels.tolist()
            np.testing.assert_allclose(one.boxes, own.boxes, atol=1e-3)
    (kept,) = tiny.sliced([file], score=0.6, classes=["one"], **_options(slicing))
    (all_of_it,) = tiny.sliced([file], **_options(slicing))
    if slicing.merge == "nms":  # what was left out cannot have suppressed what was not
        assert bits(kept) == bits(all_of_it.filter(score=0.6, classes=["one"]))
    assert 0 < len(kept) < len(all_of_it)


def test_a_stream_yields_whole_images_and_skips_those_it_cannot_use(detector: Detector, grey: Grey) -> None:
    errors: list[tuple[int, ImageError]] = []
    images = [grey(200, 100, 100), b"damaged", RGBImage(pixels=grey(100, 90, 120), name="x")]
    on_error = lambda index, error: errors.append((index, error))  # noqa: E731
    pairs = list(detector.stream_images(images, slicing=Slicing(size=80), on_error=on_error))
    assert [image.size for image, _ in pairs] == [found.image_size for _, found in pairs] == [(100, 100), (90, 120)]
    assert pairs[1][0] is images[2]
    assert [index for index, _ in errors] == [1]
    with pytest.raises(ImageError, match=r"images\[1\]"):
        detector.sliced(images, size=80)


def test_an_image_is_yielded_before_the_next_one_is_there(detector: Detector, grey: Grey) -> None:
    asked = threading.Event()

    def images():
        yield grey(200, 100, 100)
        assert asked.wait(10)

    stream = detector.stream(images(), slicing=Slicing(size=80))
    assert next(stream).image_size == (100, 100)
    asked.set()
    assert list(stream) == []


def test_what_no_canvas_holds_is_refused_before_any_slice_is_run(
    model_of: Callable[..., Path], manifest_of: ManifestOf
):
    errors = []
    with Detector.load(model_of(manifest_of(canvases=((64, 64),))), threads=1) as detector:
        images = [np.full((80, 160, 3), 9, np.uint8), np.full((160, 160, 3), 9, np.uint8)]
        on_error = lambda index, error: errors.append((index, type(error)))  # noqa: E731
        (found,) = detector.stream(images, slicing=Slicing(size=80), on_error=on_error)
        assert errors == [(0, ImageSizeError)]
        assert found.image_size == (160, 160)
        assert len(detector.sliced(images[:1], size=80, overlap=0, whole=False)[0]) == 4


def test_options_and_images_that_make_no_sense_are_refused(detector: Detector, grey: Grey) -> None:
    with pytest.raises(UsageError, match="the overlap of slices"):
        detector.sliced([], overlap=1)
    with pytest.raises(UsageError, match="batch_size"):
        detector.sliced([], batch_size=0)
    with pytest.raises(UsageError, match="expected a list"):
        detector.sliced(grey(1))
    assert detector.sliced([]) == []


class TestOnAGpu:
    @pytest.fixture
    def pair(self, device: FakeDevice, manifest_of: ManifestOf):
        artifact = TinyArtifact(manifest_of())
        with Detector(artifact.backend(device), artifact.manifest.source) as made:
            yield made
        assert device.left_open() == {}

    def test_slices_of_a_view_are_those_of_copies(self, pair: Detector) -> None:
        large = noise(7, 150, 200)
        (found,) = pair.sliced([large], size=100, overlap=0.5, iou=1.0, whole=False, batch_size=2)
        expected: list[Detections] = []
        for top in (0, 50):
            for left in (0, 50, 100):
                expected += pair([large[top : top + 100, left : left + 100].copy()])
        assert sorted(found.scores.tolist()) == sorted(s for one in expected for s in one.scores.tolist())

    def test_an_array_may_be_written_over_once_the_next_is_asked_for(self, pair: Detector) -> None:
        frames = [noise(8, 90, 90), noise(9, 90, 90)]
        shared = np.empty_like(frames[0])

        def camera():
            for frame in frames:
                shared[:] = frame
                yield shared
            shared[:] = 0

        found = list(pair.stream(camera(), slicing=Slicing(size=60)))
        assert [bits(one) for one in found] == [bits(pair.sliced([frame], size=60)[0]) for frame in frames]

    def test_device_memory_is_refused_by_name(self, pair: Detector, device: FakeDevice) -> None:
        with pytest.raises(UsageError, match=r"images\[0\] lies in device memory, expected an image in host memory"):
            pair.sliced([device.array(noise(1, 60, 80))])


def _options(slicing: Slicing) -> dict:
    return {name: getattr(slicing, name) for name in Slicing.__dataclass_fields__}
