"""``--batch`` and ``--size``: their meaning, their limits and their defaults."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from support.engine_files import source_manifest

from frcnn.errors import UsageError
from frcnn.exporter.engine.profiles import make_profiles, parse_batch, static_canvases
from frcnn.spec import Manifest, TransformSpec
from frcnn.spec.engine import Profile, Range

ANY = source_manifest()  # short side 800, long side 1333, steps of 32
STATIC = msgspec.structs.replace(ANY, canvases=((800, 1344),))
TWO = msgspec.structs.replace(ANY, canvases=((800, 1344), (1344, 800)))


def profile(heights: tuple[int, int, int], widths: tuple[int, int, int], batch: str = "1:1:8") -> Profile:
    height, width = (Range(min=r[0], opt=r[1], max=r[2]) for r in (heights, widths))
    return Profile(batch=parse_batch(batch), height=height, width=width)


def fixed(height: int, width: int, batch: str = "1:1:8") -> Profile:
    return profile((height,) * 3, (width,) * 3, batch)


@pytest.mark.parametrize(
    ("text", "expected"), [("4", (4, 4, 4)), ("1:1:8", (1, 1, 8)), ("2:3:4", (2, 3, 4)), (" 16 ", (16, 16, 16))]
)
def test_a_batch_is_a_number_or_a_range(text, expected):
    found = parse_batch(text)
    assert (found.min, found.opt, found.max) == expected


@pytest.mark.parametrize("text", ["", "0", "1:8", "1:2:3:4", "8:1:1", "1:9:8", "-1", "a", "1,8", "0:1:2"])
def test_an_invalid_batch_is_refused(text):
    with pytest.raises(UsageError, match=r"--batch: expected .*, got ") as caught:
        parse_batch(text)
    assert "--batch 1:1:8" in caught.value.hint
    assert repr(text) in caught.value.message


def test_sizes_are_canvases_and_ranges():
    found = make_profiles(ANY, batch="1:2:4", size="800x1344, 1344X800,320x352:800x1088:1344x1344")
    assert found == (
        fixed(800, 1344, "1:2:4"),
        fixed(1344, 800, "1:2:4"),
        profile((320, 800, 1344), (352, 1088, 1344), "1:2:4"),
    )


def test_profiles_written_as_options_give_the_same_profiles():
    for profiles in (make_profiles(ANY), make_profiles(TWO, batch="4"), make_profiles(ANY, size="32x64:64x64:96x128")):
        again = make_profiles(ANY, batch=str(profiles[0].batch), size=",".join(map(str, profiles)))
        assert again == profiles


@pytest.mark.parametrize(
    ("size", "message", "hint"),
    [
        ("801x1344", "--size: expected multiples of 32, got 801x1344", "the next larger is 832x1344"),
        (
            "32x32:60x64:96x96",
            "--size: expected multiples of 32, got 32x32:60x64:96x96",
            "the next larger is 32x32:64x64:96x96",
        ),
        ("800", "--size: expected HEIGHTxWIDTH in pixels, got '800'", "--size 800x1344,1344x800"),
        ("0x32", "--size: expected HEIGHTxWIDTH in pixels, got '0x32'", "--size 800x1344,1344x800"),
        ("32x32:64x64", "--size: expected one size or MIN:OPT:MAX, got 2 in '32x32:64x64'", "--size 320x320:800x1088"),
        ("64x32:32x32:96x96", "--size, heights: expected 1 <= MIN <= OPT <= MAX", "min, opt and max"),
        ("32x96:64x64:96x96", "--size, widths: expected 1 <= MIN <= OPT <= MAX", "min, opt and max"),
        ("800x1344,800x1344", "--size: 800x1344 is given twice", "keep one"),
        ("", "--size: expected HEIGHTxWIDTH in pixels, got ''", "--size 800x1344"),
    ],
)
def test_an_invalid_size_is_refused(size, message, hint):
    with pytest.raises(UsageError) as caught:
        make_profiles(ANY, size=size)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_with_fixed_canvases_is_built_for_these():
    assert make_profiles(STATIC) == (fixed(800, 1344),)
    assert make_profiles(TWO) == (fixed(800, 1344), fixed(1344, 800))
    assert make_profiles(TWO, size="1344x800") == (fixed(1344, 800),)


@pytest.mark.parametrize("size", ["832x1344", "800x1344:800x1344:832x1344", "1344x800"])
def test_a_file_with_fixed_canvases_refuses_others(size):
    with pytest.raises(UsageError, match=r"this model.onnx takes the canvases 800x1344 only, got ") as caught:
        make_profiles(STATIC, size=size)
    assert "without --size" in caught.value.hint


def test_without_a_size_there_is_a_profile_for_each_orientation():
    assert make_profiles(ANY) == (profile((32, 800, 800), (32, 1088, 1344)), profile((32, 1088, 1344), (32, 800, 800)))


def transform(**fields: object) -> Manifest:
    model = msgspec.structs.replace(ANY.model, transform=msgspec.structs.replace(ANY.model.transform, **fields))
    return msgspec.structs.replace(ANY, model=model)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fixed_size": (300, 400)}, fixed(320, 416)),
        ({"min_size": 640, "max_size": 640}, profile((32, 480, 640), (32, 640, 640))),
        ({"min_size": 800, "max_size": 600}, profile((32, 480, 608), (32, 608, 608))),
    ],
    ids=["a fixed size", "a square limit", "a limit below the short side"],
)
def test_one_profile_is_enough_where_both_orientations_have_the_same_limits(fields, expected):
    assert make_profiles(transform(**fields)) == (expected,)


@pytest.mark.parametrize(
    ("min_size", "max_size", "step"), [(800, 1333, 32), (320, 640, 32), (160, 288, 64), (75, 100, 1)]
)
def test_without_a_size_every_image_fits(min_size, max_size, step):
    source = transform(min_size=min_size, max_size=max_size, size_divisible=step)
    rule: TransformSpec = source.model.transform
    profiles = make_profiles(source)
    sides = [1, 2, 31, 64, 300, 333, 480, 640, 799, 800, 801, 1000, 1333, 1920, 4000, 30_000]
    for height, width in product(sides, repeat=2):
        canvas = rule.canvas_size(*rule.resized_size(height, width))
        assert any(found.holds(1, canvas) for found in profiles), (height, width, canvas)


def test_without_a_size_a_profile_is_no_larger_than_the_largest_canvas():
    for found, (height, width) in zip(make_profiles(ANY), ((800, 1333), (1333, 800)), strict=True):
        assert ANY.model.transform.canvas_size(height, width) == (found.height.max, found.width.max)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, None),
        ("800x1344", ((800, 1344),)),
        ("800x1344,1344x800", ((800, 1344), (1344, 800))),
        ("800x1344,32x32:64x64:96x96", None),
    ],
)
def test_static_canvases_are_those_of_a_size_without_ranges(size, expected):
    assert static_canvases(size) == expected
