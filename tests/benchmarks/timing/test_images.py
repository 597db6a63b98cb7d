"""The pictures of a run: given ones, bad ones, and those that can be had without any."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from frcnn.benchmarks.timing import images as bench_pictures
from frcnn.benchmarks.timing.images import default_pictures, given_pictures, made_equal
from frcnn.errors import ImageError
from frcnn.runtime import Picture


@pytest.fixture
def folder(tmp_path):
    for i, size in enumerate([(40, 60), (40, 60), (60, 40)]):
        Image.new("RGB", size[::-1], (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_broken_picture_is_skipped_and_named(folder) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    found = given_pictures([folder, folder / "none.png"])
    assert [picture.size for picture in found.pictures] == [(40, 60), (40, 60), (60, 40)]
    assert [item.name for item in found.skipped] == [str(folder / "none.png"), str(folder / "bad.png")]
    assert "no such file" in found.skipped[0].reason and found.skipped[1].reason


def test_no_picture_at_all_is_an_error(tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"not one picture can be used: .*bad\.png"):
        given_pictures([tmp_path])
    with pytest.raises(ImageError, match="not one picture can be used"):
        given_pictures([tmp_path / "nowhere"])


def test_pictures_are_made_equal_to_the_commonest_size(folder) -> None:
    given = given_pictures([folder]).pictures
    equal = made_equal(given)
    assert {picture.size for picture in equal} == {(40, 60)}
    assert equal[0] is given[0] and equal[2] is not given[2]
    assert all(a is b for a, b in zip(made_equal(equal), equal, strict=True))


@pytest.mark.parametrize("has_photographs", [True, False])
def test_without_pictures_there_are_sixteen_different_ones(monkeypatch, has_photographs) -> None:
    if not has_photographs:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            bench_pictures.importlib.util, "find_spec", lambda name: None if name == "sklearn" else real(name)
        )
    found = default_pictures()
    assert ("photographs" in found.source) == has_photographs
    assert len({_bytes(picture) for picture in found.pictures}) == 16
    assert {picture.size for picture in found.pictures} == {(427, 640)}
    assert [_bytes(p) for p in default_pictures().pictures] == [_bytes(p) for p in found.pictures]


def _bytes(picture: Picture) -> bytes:
    return np.ascontiguousarray(picture.pixels).tobytes()
