"""Numbers and names as reports write them, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from frcnn.benchmarks.report.results import Ratio
from frcnn.spec import Size

__all__ = [
    "NONE",
    "bytes_text",
    "interval_text",
    "key_of",
    "listing",
    "ms",
    "number",
    "percent",
    "ratio_text",
    "size_text",
    "tick",
]

NONE = "-"
"""Stands where nothing was measured."""


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    exponent = int(f"{value:e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def tick(value: float) -> str:
    """Return a round number, as beside an axis: without trailing zeros."""
    text = number(value)
    if "e" in text:
        return f"{value:g}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ms(value: float | None) -> str:
    """Return milliseconds without the unit."""
    return NONE if value is None else number(value)


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 as per cent."""
    return f"{share:.{digits}%}".replace("%", " %")


def bytes_text(count: float | None) -> str:
    """Return a number of bytes in MB or GB (powers of ten)."""
    if count is None:
        return NONE
    return f"{count / 1e9:.2f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.1f} MB"


def size_text(size: Size) -> str:
    """Return (height, width) as ``800x1216``."""
    return f"{size[0]}x{size[1]}"


def ratio_text(ratio: Ratio | None) -> str:
    """Return a ratio with its interval."""
    return NONE if ratio is None else f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def interval_text(ratio: Ratio) -> str:
    """Return what the interval of a ratio is; ``Ratio`` has the rule."""
    if ratio.rounds < 6:
        return f"smallest and largest of {ratio.rounds} round{'s' if ratio.rounds != 1 else ''}"
    return f"95 % interval of the median, {ratio.rounds} rounds"


def listing(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def key_of(index: int) -> str:
    """Return the letter of a row by its place: A to Z, then AA, AB, ..."""
    first, second = divmod(index, 26)
    return (key_of(first - 1) if first else "") + chr(ord("A") + second)
