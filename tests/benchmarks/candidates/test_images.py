"""The images of a run: given ones, bad ones, and those that can be had without any."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from frcnn.benchmarks.candidates import images as bench_images
from frcnn.benchmarks.candidates.images import default_images, given_images, made_equal
from frcnn.errors import ImageError
from frcnn.runtime import RGBImage


@pytest.fixture
def folder(tmp_path):
    for i, size in enumerate([(40, 60), (40, 60), (60, 40)]):
        Image.new("RGB", size[::-1], (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_broken_image_is_skipped_and_named(folder) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    found = given_images([folder, folder / "none.png"])
    assert [image.size for image in found.images] == [(40, 60), (40, 60), (60, 40)]
    assert [item.name for item in found.skipped] == [str(folder / "none.png"), str(folder / "bad.png")]
    assert "no such file" in found.skipped[0].reason and found.skipped[1].reason


def test_no_image_at_all_is_an_error(tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"not one image can be used: .*bad\.png"):
        given_images([tmp_path])
    with pytest.raises(ImageError, match="not one image can be used"):
        given_images([tmp_path / "nowhere"])


def test_images_are_made_equal_to_the_commonest_size(folder) -> None:
    given = given_images([folder]).images
    equal = made_equal(given)
    assert {image.size for image in equal} == {(40, 60)}
    assert equal[0] is given[0] and equal[2] is not given[2]
    assert all(a is b for a, b in zip(made_equal(equal), equal, strict=True))


@pytest.mark.parametrize("has_photographs", [True, False])
def test_without_images_there_are_sixteen_different_ones(monkeypatch, has_photographs) -> None:
    if not has_photographs:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            bench_images.importlib.util, "find_spec", lambda name: None if name == "sklearn" else real(name)
        )
    found = default_images()
    assert ("photographs" in found.source) == has_photographs
    assert len({_bytes(image) for image in found.images}) == 16
    assert {image.size for image in found.images} == {(427, 640)}
    assert [_bytes(p) for p in default_images().images] == [_bytes(p) for p in found.images]


def _bytes(image: RGBImage) -> bytes:
    return np.ascontiguousarray(image.pixels).tobytes()
