"""frcnn.runtime.images.slices: where an image is cut."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.errors import ImageSizeError, UsageError
from frcnn.runtime import RGBImage, Slicing
from frcnn.runtime.images.slices import slices_of

OVERLAPS = st.floats(0, 0.9) | st.sampled_from([0.2, 0.29, 0.5, 1 / 3])


def image(height: int, width: int) -> RGBImage:
    return RGBImage(pixels=np.zeros((height, width, 3), np.uint8), name="a.png", source="a.png")


@given(st.integers(1, 3000), st.integers(1, 700), OVERLAPS)
def test_a_side_is_covered_by_full_slices_that_overlap_as_they_are_told_to(
    length: int, size: int, overlap: float
) -> None:
    starts = Slicing(size=size, overlap=overlap).starts(length)
    steps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] + min(size, length) == length
    assert (steps > 0).all()
    assert (size - steps[:-1] == int(overlap * size)).all()
    assert not steps.size or size - steps[-1] >= int(overlap * size)


def test_an_overlap_of_nearly_a_whole_slice_moves_on_by_a_pixel() -> None:
    assert Slicing(size=640, overlap=np.nextafter(1.0, 0)).starts(643) == [0, 1, 2, 3]


def test_the_slices_are_those_of_sahi() -> None:
    """Those of ``get_slice_bboxes`` of sahi 0.12.8, by which 0.29 of 400 pixels are 115."""
    (whole, *slices) = slices_of(image(700, 900), Slicing(size=400, overlap=0.29))
    assert (whole.size, whole.name) == ((700, 900), "a.png")
    assert [(one.left, one.top) for one in slices] == [(left, top) for top in (0, 285, 300) for left in (0, 285, 500)]
    assert {one.size for one in slices} == {(400, 400)}
    assert [one.is_last for one in (whole, *slices)] == [False] * 9 + [True]


def test_slices_are_views_named_by_their_place() -> None:
    original = image(300, 450)
    pixels = original.pixels
    pixels[:] = np.arange(pixels.size, dtype=np.uint64).reshape(pixels.shape) % 251
    for one in slices_of(original, Slicing(size=200, overlap=0.25)):
        height, width = one.size
        assert np.shares_memory(one.pixels, pixels)
        assert np.array_equal(one.pixels, pixels[one.top : one.top + height, one.left : one.left + width])
        assert (one.of, one.source) == (original, "a.png")
    assert (one.name, one.left, one.top) == ("a.png[100:300, 250:450]", 250, 100)


def test_a_side_that_is_shorter_than_a_slice_is_not_cut() -> None:
    slices = slices_of(image(100, 500), Slicing(size=200, overlap=0, whole=False))
    assert [(one.left, one.size) for one in slices] == [(0, (100, 200)), (200, (100, 200)), (300, (100, 200))]


def test_an_image_that_fits_in_a_slice_is_one_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for whole in (True, False):
        (one,) = slices_of(image(640, 640), Slicing(whole=whole))
        assert (one.size, one.is_last) == ((640, 640), True)
    assert caplog.record_tuples == [
        ("frcnn", logging.WARNING, f"frcnn: {text}")
        for text in ["images of 640x640 pixels or less fit in a slice and are not cut; smaller slices would do it"]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "the size of slices: expected 1 pixel or more, got 0"),
        ({"overlap": 1}, "the overlap of slices: expected 0 or more and less than 1, got 1"),
        ({"overlap": -0.1}, "the overlap of slices: expected 0 or more and less than 1, got -0.1"),
        ({"overlap": np.nan}, "the overlap of slices: expected 0 or more and less than 1, got nan"),
        ({"merge": "wbf"}, "merge: expected 'nms' or 'weighted', got 'wbf'"),
        ({"iou": 1.5}, "the IoU of boxes to merge: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Slicing(**options)
    assert caught.value.message == message
    assert caught.value.hint


def test_too_many_slices_are_refused_before_they_are_made() -> None:
    endless = RGBImage(pixels=np.broadcast_to(np.uint8(0), (100_000, 100_000, 3)), name="a.png")
    with pytest.raises(ImageSizeError, match=r"a\.png .*: 62,500 slices of 400 pixels .*, more than 10,000") as caught:
        slices_of(endless, Slicing(size=400, overlap=0))
    assert "make the slices larger" in caught.value.hint
