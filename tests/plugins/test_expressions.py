"""Sizes as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.plugins.expressions import INTEGERS, evaluate

sizes = st.integers(0, 10_000)


@given(sizes, st.integers(1, 500))
def test_functions_and_operators(a, b):
    values = {"A": a, "B": b}
    expected = {
        "A + B*2 - 1": a + b * 2 - 1,
        "A // B": a // b,
        "ceil_div(A, B)": (a + b - 1) // b,
        "min(A, 7)": min(a, 7),
        "max(B, ceil_div(A, 32))": max(b, (a + 31) // 32),
        "16*(A + 1)*A": 16 * (a + 1) * a,
        "3": 3,
    }
    assert {text: evaluate(text, values, INTEGERS) for text in expected} == expected


@pytest.mark.parametrize(
    "text", ["A /", "A / 2", "A ** 2", "-A", "1.5", "'A'", "f(A, 1)", "min(A)", "A.real", "A if A else 1"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        evaluate(text, {"A": 1}, INTEGERS)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'C' in 'A \\+ C'; known names: A, B"):
        evaluate("A + C", {"A": 1, "B": 2}, INTEGERS)
