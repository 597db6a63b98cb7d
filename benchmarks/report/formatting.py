"""Numbers and names as reports write them, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from frcnn.benchmarks.report.results import Ratio
from frcnn.spec import Size

NONE = "-"
"""Stands where nothing was measured."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent where that is readable."""
    if value is None:
        return NONE
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


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 as per cent."""
    return NONE if share is None else f"{share:.{digits}%}".replace("%", " %")


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


def listing(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
