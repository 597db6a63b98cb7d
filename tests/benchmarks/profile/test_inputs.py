"""Which images a profile looks at."""

from __future__ import annotations

import numpy as np
import pytest

from frcnn.benchmarks.candidates.artifacts import first_canvas
from frcnn.benchmarks.candidates.images import Images
from frcnn.benchmarks.profile.inputs import choose_inputs
from frcnn.errors import ImageSizeError, UsageError
from frcnn.runtime import RGBImage
from frcnn.runtime.images.canvases import OnnxCanvases


def images(*sizes, files=True, folder):
    made = [RGBImage(pixels=np.zeros((*size, 3), np.uint8), name=f"p{i}") for i, size in enumerate(sizes)]
    paths = tuple(folder / f"{i}.png" for i in range(len(sizes))) if files else ()
    return Images(images=tuple(made), skipped=(), source="given", files=paths)


@pytest.fixture
def choose(exports, tmp_path):
    manifest = exports("vgg16").manifest  # short side 160, long side at most 288

    def choose(*sizes, canvas=None, first=None, files=True):
        given = images(*sizes, files=files, folder=tmp_path)
        return choose_inputs(given, manifest.model.transform, OnnxCanvases(manifest), canvas=canvas, first=first)

    return choose


def test_the_first_image_decides_the_canvas_and_others_are_left_out(choose, tmp_path):
    found = choose((160, 224), (224, 160), (320, 448), (160, 280))
    assert found.canvas == (160, 224)
    assert [item.image.name for item in found.placed] == ["p0", "p2"]
    assert found.files == (tmp_path / "0.png", tmp_path / "2.png")
    assert found.left_out == ("p1", "p3")
    assert {item.resized for item in found.placed} == {(160, 224)}


def test_each_run_continues_where_the_last_ended(choose):
    found = choose(*[(160, 224)] * 3)
    assert [found.batch(run, 2) for run in range(3)] == [[0, 1], [2, 0], [1, 2]]
    assert found.used(1, 2) == ("p0", "p1")
    assert found.used(5, 2) == ("p0", "p1", "p2")


def test_a_given_canvas_takes_every_image_that_fits(choose):
    found = choose((160, 224), (224, 160), (160, 192), canvas=(192, 256))
    assert [item.image.name for item in found.placed] == ["p0", "p2"]
    assert [item.resized for item in found.placed] == [(160, 224), (160, 192)]
    assert {item.canvas for item in found.placed} == {(192, 256)}


def test_bundled_images_fill_the_canvas(choose):
    found = choose((160, 224), (224, 160), canvas=(192, 256), files=False)
    assert [item.resized for item in found.placed] == [(192, 256)] * 2
    assert found.files == ()
    assert found.left_out == ()


def test_invalid_canvases_are_refused(choose):
    with pytest.raises(UsageError, match="takes no canvas of 100x200") as raised:
        choose((160, 224), canvas=(100, 200))
    assert raised.value.hint == "the smallest that holds it is 128x224"
    with pytest.raises(ImageSizeError, match="--size 96x96: none of the 1 image"):
        choose((160, 224), canvas=(96, 96))


def test_a_fixed_canvas_is_the_only_one(exports, tmp_path):
    manifest = exports("vgg16", size=(160, 224)).manifest
    given = images((160, 224), folder=tmp_path)
    transform, canvases = manifest.model.transform, OnnxCanvases(manifest)
    with pytest.raises(UsageError, match="fits none of the model's canvases 160x224"):
        choose_inputs(given, transform, canvases, canvas=(320, 320), first=(160, 224))
    found = choose_inputs(given, transform, canvases, canvas=(160, 224), first=(160, 224))
    assert found.canvas == (160, 224)


def test_bundled_images_that_fit_no_canvas_fill_the_first(exports, tmp_path):
    manifest = exports("vgg16", size=(160, 224)).manifest
    transform, canvases = manifest.model.transform, OnnxCanvases(manifest)
    ours = images((160, 280), (160, 280), files=False, folder=tmp_path)
    found = choose_inputs(ours, transform, canvases, canvas=None, first=first_canvas(manifest))
    assert [(item.resized, item.canvas) for item in found.placed] == [((160, 224), (160, 224))] * 2
    theirs = images((160, 280), folder=tmp_path)
    with pytest.raises(ImageSizeError, match=r"p0 .*fits none of the model's canvases 160x224"):
        choose_inputs(theirs, transform, canvases, canvas=None, first=first_canvas(manifest))
