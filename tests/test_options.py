"""The options that several verbs have."""

from __future__ import annotations

import argparse

import pytest

from frcnn.errors import UsageError
from frcnn.options import add_number, parse_sizes


def number(text: str, **bounds: float) -> object:
    parser = argparse.ArgumentParser()
    add_number(parser, "--number", "--old-name", **bounds)
    return parser.parse_args(["--old-name", text]).number


def test_a_number_is_whole_where_its_minimum_is():
    assert repr(number("2", minimum=1)) == "2"
    assert repr(number("1", minimum=0.0, maximum=1.0)) == "1.0"


@pytest.mark.parametrize(
    ("text", "bounds", "expected"),
    [
        ("0", {"minimum": 1}, "1 or more"),
        ("1.5", {"minimum": 1}, "1 or more"),
        ("many", {"minimum": 1}, "1 or more"),
        ("1025", {"minimum": 1, "maximum": 1024}, "1 to 1024"),
        ("nan", {"minimum": 0.0}, "a number from 0"),
        ("inf", {"minimum": 0.0}, "a number from 0"),
        ("1.01", {"minimum": 0.0, "maximum": 1.0}, "a number from 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_the_options_name(text, bounds, expected):
    with pytest.raises(UsageError) as raised:
        number(text, **bounds)
    assert raised.value.message == f"--number: expected {expected}, got {text}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("800x1344", ((800, 1344),)),
        ("800x1344,1344x800", ((800, 1344), (1344, 800))),
        (" 320X640 , 64×32 ", ((320, 640), (64, 32))),  # noqa: RUF001
    ],
)
def test_parse_sizes(text, expected):
    assert parse_sizes(text) == expected


@pytest.mark.parametrize("text", ["", "800", "800x", "x800", "0x32", "-1x32", "800x1344,", "8e2x32", "800x1344x3", "a"])
def test_parse_sizes_refuses(text):
    with pytest.raises(UsageError, match="expected HEIGHTxWIDTH"):
        parse_sizes(text)
    with pytest.raises(UsageError, match="given twice"):
        parse_sizes("32x64,32x64")
