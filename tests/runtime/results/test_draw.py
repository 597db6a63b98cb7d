"""frcnn.runtime.results.draw: what can be checked without eyes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from frcnn.runtime import Detections
from frcnn.runtime.results.draw import PALETTE, _contrasting, _objects, _placed, _Style, annotate, class_colour

NAMES = ("__background__", *(f"class number {index}" for index in range(1, 30)))


def found(boxes: list[list[float]], height: int, width: int) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(count, 4),
        scores=np.linspace(0.9, 0.3, count),
        labels=np.arange(count) % 29 + 1,
        image_size=(height, width),
        label_names=NAMES,
    )


def canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_nothing_found_changes_nothing() -> None:
    np.testing.assert_array_equal(annotate(canvas(400, 500), found([], 400, 500)), canvas(400, 500))


def test_the_box_has_its_classs_colour_and_the_image_is_not_touched() -> None:
    pixels = canvas(400, 500)
    drawn = annotate(pixels, found([[100, 150, 300, 350]], 400, 500))
    assert (pixels == 128).all()
    assert drawn.shape == pixels.shape
    for y, x in ((250, 101), (250, 298), (348, 200)):
        assert tuple(drawn[y, x]) == class_colour(1)
    assert (drawn[160:340, 110:290] == 128).all()  # the object itself stays visible
    assert (drawn[:, 320:] == 128).all()


@pytest.mark.parametrize(("size", "minimum"), [((40, 60), 320), ((1, 1), 320), ((240, 320), 320), ((3000, 4000), 4000)])
def test_small_images_are_enlarged_by_a_whole_factor(size: tuple[int, int], minimum: int) -> None:
    drawn = annotate(canvas(*size), found([[0, 0, size[1], size[0]]], *size))
    factor = drawn.shape[0] // size[0]
    assert drawn.shape == (size[0] * factor, size[1] * factor, 3)
    assert max(drawn.shape) >= minimum
    assert max(drawn.shape) < minimum + max(size)


def test_lines_and_text_grow_with_the_image() -> None:
    small, large = _Style.for_size(640, 480), _Style.for_size(4000, 3000)
    assert small.font_px >= 12
    assert small.line_px >= 2
    assert large.font_px > 4 * small.font_px
    assert large.line_px > 4 * small.line_px


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.lists(st.lists(st.floats(-100, 600, width=32), min_size=4, max_size=4), max_size=8),
)
def test_any_box_on_any_image_is_drawn_inside_the_frame(height: int, width: int, boxes: list[list[float]]) -> None:
    ordered = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in boxes]
    detections = found(ordered, height, width)
    drawn = annotate(canvas(height, width), detections)
    frame = (drawn.shape[1], drawn.shape[0])
    style = _Style.for_size(*frame)
    objects = _objects(detections, drawn.shape[0] // height, frame, None, None)
    for _, (x1, y1, _, y2) in _placed(objects, style, frame):
        assert x1 >= 0
        assert 0 <= y1 < y2 <= frame[1]


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
def test_images_of_extreme_shapes_are_drawn(size: tuple[int, int]) -> None:
    assert annotate(canvas(*size), found([[0, 0, size[1], size[0]]], *size)).dtype == np.uint8


def test_plates_avoid_each_other() -> None:
    boxes = [[100, 100 + 3 * index, 400, 300] for index in range(5)]
    detections = found(boxes, 480, 640)
    objects = _objects(detections, 1, (640, 480), None, None)
    plates = [plate for _, plate in _placed(objects, _Style.for_size(640, 480), (640, 480))]
    for one, other in itertools.combinations(plates, 2):
        assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])


def test_a_class_keeps_its_colour() -> None:
    assert class_colour(1) == PALETTE[0]
    assert class_colour(1) == class_colour(1 + len(PALETTE))
    assert len({class_colour(label) for label in range(1, len(PALETTE) + 1)}) == len(PALETTE)


def linear(colours: np.ndarray) -> np.ndarray:
    """Return sRGB as linear light, both in [0, 1]."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def differences(light: np.ndarray) -> np.ndarray:
    """Return CIEDE2000 between any two of these (N, 3) linear colours; 2 is just seen, side by side."""
    light = np.clip(light, 0, 1)
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    lab = rgb2lab(srgb[None])[0]
    between: np.ndarray = deltaE_ciede2000(lab[:, None], lab[None])
    np.fill_diagonal(between, np.inf)
    return between


def test_thirty_classes_have_colours_far_apart() -> None:
    between = differences(linear(np.array(PALETTE) / 255))
    assert len(PALETTE) == 30
    assert between.min() > 17
    assert between[:20, :20].min() > 20
    assert min(between[index, (index + 1) % 30] for index in range(30)) > 21  # classes that follow each other


@pytest.mark.parametrize(
    "seen",
    [  # Machado, Oliveira and Fernandes 2009, severity 1
        ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
        ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    ],
    ids=["protanopia", "deuteranopia", "tritanopia"],
)
def test_the_first_seven_differ_for_colour_blind_people(seen: tuple[tuple[float, ...], ...]) -> None:
    light = linear(np.array([class_colour(label) for label in range(1, 8)]) / 255)
    assert differences(light @ np.array(seen).T).min() > 10


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return WCAG's contrast ratio of two colours."""
    lights = sorted(float(linear(np.array(colour) / 255) @ (0.2126, 0.7152, 0.0722)) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_is_read_on_a_plate_of_any_colour(colour: tuple[int, int, int]) -> None:
    assert contrast(colour, _contrasting(colour)) >= 4.5


@pytest.mark.parametrize("shade", [0, 30, 128, 225, 255])
def test_boxes_of_all_classes_are_seen_on_dark_and_bright_images(shade: int) -> None:
    pixels = np.full((400, 500, 3), shade, np.uint8)
    for label in range(1, 31):
        one = Detections(
            boxes=np.array([[100, 100, 400, 300]], np.float32),
            scores=np.ones(1, np.float32),
            labels=np.array([label]),
            image_size=(400, 500),
            label_names=(*NAMES, "class number 30"),
        )
        line = annotate(pixels, one)[200, 100:110]
        assert max(contrast(tuple(pixel), (shade,) * 3) for pixel in line.tolist()) >= 3
