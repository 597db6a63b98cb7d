"""frcnn.runtime.detector: the public face, on the stand-in model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frcnn.errors import ImageError, ImageSizeError, UsageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.providers import RunProvider
from frcnn.spec import Manifest

Grey = Callable[..., np.ndarray]

ENCODED = (b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), BytesIO(b"bytes"))


class Spy:
    """A network that remembers the shapes it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.sizes: list[list[list[int]]] = []
        self.closed = False

    def run(self, images: np.ndarray, image_sizes: np.ndarray) -> NetworkOutput:
        self.shapes.append(images.shape)
        self.sizes.append(image_sizes.tolist())
        count = len(images)
        return NetworkOutput(
            num_detections=np.ones(count, np.int32),
            boxes=np.tile(np.array([[0, 0, 8, 4]], np.float32), (count, 1, 1)),
            scores=images.max(axis=(1, 2, 3))[:, None],
            labels=np.ones((count, 1), np.int32),
        )

    def close(self) -> None:
        self.closed = True


def around(spy: Spy, manifest: Manifest) -> Detector:
    return Detector(HostBackend(spy, manifest), manifest)


def best(found: Detections) -> int:
    """Return the grey level of the image that the stand-in model saw."""
    return round(float(found.scores[0]) * 255) if len(found) else 0


def test_every_kind_of_image(detector: Detector, grey: Grey, image_file: Callable[..., Path]) -> None:
    pixels = grey(200)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    images = [image_file("a.png"), Image.fromarray(pixels), pixels, tensor, tensor.float() / 255]
    results = detector(images)
    assert len(results) == 5
    for found in results:
        np.testing.assert_allclose(found.boxes, [[8, 12, 40, 36], [40, 30, 80, 60]], rtol=1e-6)
        np.testing.assert_allclose(found.scores, [200 / 255, 100 / 255], rtol=1e-6)
        assert found.labels.tolist() == [1, 2]
        assert found.class_names == ["cat", "dog"]
        assert found.image_size == (60, 80)
    assert results[0].source is not None
    assert results[0].source.endswith("a.png")
    assert [found.source for found in results[1:]] == [None] * 4


def test_boxes_are_in_each_images_own_pixels(detector: Detector, grey: Grey) -> None:
    for height, width in ((60, 80), (300, 150), (1, 1), (2, 500), (640, 1000)):
        (found,) = detector([grey(200, height, width)])
        expected = np.array([[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 1, 1]]) * [width, height, width, height]
        np.testing.assert_allclose(found.boxes, expected, rtol=1e-5)


def test_order_is_kept_for_any_mixture(detector: Detector, grey: Grey) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(1, 256, 30).tolist()
    sizes = [((60, 80), (80, 60), (50, 50))[index] for index in rng.integers(0, 3, 30)]
    images = [grey(level, *size) for level, size in zip(levels, sizes, strict=True)]
    for batch_size in (1, 3, 8):
        assert [best(found) for found in detector(images, batch_size=batch_size)] == levels
        assert [best(found) for found in detector.stream(iter(images), batch_size=batch_size)] == levels


def test_only_images_of_one_canvas_share_a_batch(manifest_of: Callable[..., Manifest], grey: Grey) -> None:
    spy = Spy()
    images = [grey(9, 60, 80), grey(9, 80, 60), grey(9, 60, 80), grey(9, 80, 60)]
    around(spy, manifest_of())(images, batch_size=4)
    assert sorted(spy.shapes) == [(2, 3, 64, 96), (2, 3, 96, 64)]
    assert sorted(spy.sizes) == [[[64, 85], [64, 85]], [[85, 64], [85, 64]]]


def test_same_canvas_is_that_of_the_largest(manifest_of: Callable[..., Manifest], grey: Grey) -> None:
    spy = Spy()
    results = around(spy, manifest_of())([grey(9, 60, 80), grey(8, 80, 60)], batch_size=4, same_canvas=True)
    assert spy.shapes == [(2, 3, 96, 96)]
    assert spy.sizes == [[[64, 85], [85, 64]]]
    assert [best(found) for found in results] == [9, 8]
    assert around(spy, manifest_of())([], same_canvas=True) == []


def test_the_default_batch_is_one(manifest_of: Callable[..., Manifest], grey: Grey) -> None:
    spy = Spy()
    around(spy, manifest_of())([grey(1)] * 3)
    assert [shape[0] for shape in spy.shapes] == [1, 1, 1]


def test_score_and_classes_filter(detector: Detector, grey: Grey) -> None:
    images = [grey(200), grey(0)]
    assert [found.class_names for found in detector(images, score=0.5)] == [["cat"], []]
    assert [found.class_names for found in detector(images, classes=["dog"])] == [["dog"], []]
    assert [found.class_names for found in detector(images, classes=[1])] == [["cat"], []]
    assert [found.class_names for found in detector.stream(images, score=0.5, classes=["dog"])] == [[], []]
    with pytest.raises(UsageError, match="it knows: cat, dog, teddy bear"):
        detector(images, classes=["bird"])


@pytest.mark.parametrize("call", ["__call__", "stream"])
def test_a_single_image_is_refused(detector: Detector, grey: Grey, call: str) -> None:
    for image in ("a.jpg", Path("a.jpg"), grey(1), Image.fromarray(grey(1)), torch.zeros(3, 8, 8), *ENCODED, 5):
        with pytest.raises(UsageError, match=r"detector\(\[image\]\)"):
            getattr(detector, call)(image)


def test_bad_options_are_refused_before_any_work(detector: Detector, model_path: Path) -> None:
    def untouched() -> Iterator[object]:
        raise AssertionError("the images were asked for")
        yield

    for options in ({"batch_size": 0}, {"score": 2.0}, {"classes": ["bird"]}, {"channel_order": "BGR"}):
        with pytest.raises(UsageError):
            detector(untouched(), **options)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            detector.stream(untouched(), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_pixels"):
        Detector.load(model_path, max_pixels=0)
    with pytest.raises(UsageError, match="channel_order: expected 'rgb' or 'bgr', got 'BRG'"):
        Detector.load(model_path, channel_order="BRG")  # type: ignore[arg-type]


def test_a_bad_image_is_named(detector: Detector, grey: Grey, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("broken")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        detector([grey(1), tmp_path / "bad.jpg"])
    with pytest.raises(ImageError, match=r"images\[1\]: expected .* got a NoneType"):
        detector([grey(1), None])


def test_the_pixel_limit(model_path: Path, image_file: Callable[..., Path]) -> None:
    small = Detector.load(model_path, threads=1, max_pixels=100)
    with pytest.raises(ImageSizeError, match="more than the limit of 100"):
        small([image_file("a.png")])


def test_a_static_model_refuses_what_does_not_fit(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], grey: Grey, provider: RunProvider
) -> None:
    static = Detector.load(model_of(manifest_of(canvases=((64, 96),))), provider=provider, threads=1)
    assert len(static([grey(9, 60, 80)])) == 1
    with pytest.raises(ImageSizeError, match=r"images\[0\] \(80x60\)"):
        static([grey(9, 80, 60)])


def test_a_bad_image_is_raised_after_the_detections_before_it(detector: Detector, grey: Grey, tmp_path: Path) -> None:
    stream = detector.stream([grey(10), grey(20, 80, 60), tmp_path / "missing.jpg", grey(30)], batch_size=4)
    assert [best(next(stream)), best(next(stream))] == [10, 20]
    with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
        next(stream)


def test_stream_notes_where_the_iterable_failed(detector: Detector, grey: Grey) -> None:
    def camera() -> Iterator[object]:
        yield grey(10)
        raise RuntimeError("unplugged")

    stream = detector.stream(camera())
    assert best(next(stream)) == 10
    with pytest.raises(RuntimeError, match="unplugged") as raised:
        next(stream)
    assert raised.value.__notes__ == ["raised by the iterable of images, at images[1]"]


def test_stream_can_skip_bad_images(detector: Detector, grey: Grey, tmp_path: Path) -> None:
    skipped: list[tuple[int, str]] = []
    stream = detector.stream(
        [grey(10), tmp_path / "missing.jpg", grey(20), None],
        on_error=lambda index, error: skipped.append((index, type(error).__name__)),
    )
    assert [best(found) for found in stream] == [10, 20]
    assert skipped == [(1, "ImageError"), (3, "ImageError")]


def test_stream_gives_the_images_too(detector: Detector, grey: Grey, image_file: Callable[..., Path]) -> None:
    path = image_file("a.png", level=40)
    pairs = list(detector.stream_images([path, grey(50)]))
    assert [image.name for image, _ in pairs] == [str(path), "images[1]"]
    assert [int(image.pixels[0, 0, 0]) for image, _ in pairs] == [40, 50]
    assert [best(found) for _, found in pairs] == [40, 50]


def test_close_and_context_manager(
    model_path: Path, manifest_of: Callable[..., Manifest], grey: Grey, provider: RunProvider
) -> None:
    spy = Spy()
    with around(spy, manifest_of()) as detector:
        assert detector([grey(5)])[0].class_names == ["cat"]
    assert spy.closed
    loaded = Detector.load(model_path, provider=provider, threads=1)
    loaded.close()
    loaded.close()
    with pytest.raises(UsageError, match="closed"):
        loaded([grey(5)])


def test_the_manifest_and_labels_are_there(detector: Detector, manifest_of: Callable[..., Manifest]) -> None:
    assert detector.manifest == manifest_of()
    assert detector.labels == ("__background__", "cat", "dog", "teddy bear")
