"""Where a number stands on an axis, and which numbers are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

__all__ = ["Axis"]

_MAX_TICKS: Final = 5
_APART: Final = 10.0
"""Per cent of the length that a number needs on a phone."""
_LOG_FROM: Final = 20.0
"""Where the largest value is so many times the least, an axis from 0 would squeeze the small ones together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A scale.

    Attributes:
        low: value at 0 %.
        high: value at 100 %.
        log: equal ratios, not differences, are equally long.
        ticks: values to be written, rising, within low and high.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    @classmethod
    def linear(cls, values: Iterable[float], *, low: float = 0.0) -> Self:
        """Return an axis from ``low`` that holds the values."""
        high = max([*values, low])
        high = low + (high - low) * 1.04 if high > low else low + 1.0
        step = _nice_step((high - low) / (_MAX_TICKS + 1))
        first = math.ceil(low / step - 1e-9)
        ticks = tuple(step * k for k in range(first, int(high / step + 1e-9) + 1))
        return cls(low=low, high=high, log=False, ticks=ticks)

    @classmethod
    def logarithmic(cls, values: Iterable[float], *, margin: float = 1.2) -> Self:
        """Return a logarithmic axis that holds the values above 0."""
        above = [value for value in values if value > 0] or [1.0]
        low, high = min(above) / margin, max(above) * margin
        return cls(low=low, high=high, log=True, ticks=_log_ticks(low, high))

    @classmethod
    def fitted(cls, values: Iterable[float]) -> Self:
        """Return an axis from 0, or a logarithmic one where the values are orders of magnitude apart."""
        found = list(values)
        above = [value for value in found if value > 0]
        if above and max(above) > _LOG_FROM * min(above):
            return cls.logarithmic(above)
        return cls.linear(found)

    def with_ticks(self, values: Iterable[float]) -> Self:
        """Return the same axis with these ticks, less those whose numbers would run into the one before."""
        kept: list[float] = []
        for value in sorted(set(values)):
            if not kept or self.at(value) - self.at(kept[-1]) >= _APART:
                kept.append(value)
        return replace(self, ticks=tuple(kept))

    def at(self, value: float) -> float:
        """Return where a value stands, in per cent of the length; what is beyond an end stands at the end."""
        if self.log:
            share = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return 100 * min(max(share, 0.0), 1.0)


def _nice_step(minimum: float) -> float:
    """Return the least 1, 2 or 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(minimum))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= minimum * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return round numbers between two ends: 1 2 5, else powers of ten, else every so many powers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = tuple(f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high)
        if 2 <= len(ticks) <= _MAX_TICKS:
            return ticks
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(tens) >= 2:
        return tuple(tens[:: math.ceil(len(tens) / _MAX_TICKS)])
    # less than a factor of ten, and more round numbers than there is room for or fewer than two
    return tuple(t for t in Axis.linear([high], low=low).ticks if low <= t <= high) or (low, high)
