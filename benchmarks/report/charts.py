"""Charts as inline SVG: widths in per cent, heights and letters in pixels, so that text keeps its size on a phone.

Colours come from the page's style sheet (classes ``c0`` to ``c7``, for light and dark). A series is known by its letter
as well as its colour, and what is said by a drawing is said by its ``<title>`` and by the table beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from frcnn.benchmarks.report.axes import Axis
from frcnn.benchmarks.report.markup import Markup, element, join

__all__ = ["COLOURS", "Bar", "Mark", "Segment", "Track", "Written", "badge", "legend", "plane", "stacked", "tracks"]

COLOURS: Final = 8
_LANE: Final = 36
"""Height in pixels of one track."""
_RADIUS: Final = 9
_PLANE: Final = 260
"""Height in pixels of a chart of two axes."""
_NEAR: Final = 8.0
"""Letters nearer than so many per cent of the width would touch on a phone."""

Written = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A line of a chart in which every row has a line of its own.

    Attributes:
        key: its letter.
        colour: 0 to ``COLOURS`` - 1.
        name: written above it.
        value: written beside the name.
        says: the same in words, for those who cannot see it.
        whole: (least, largest): a thin line.
        inner: (low, high): a box.
        middle: a thick stroke.
        dots: single values.
        hollow: drawn in outline: not to be taken for a result.
    """

    key: str
    colour: int
    name: str
    value: str
    says: str
    whole: tuple[float, float]
    inner: tuple[float, float]
    middle: float
    dots: tuple[float, ...] = ()
    hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A lettered point of a plane; ``shown`` is drawn with a letter, otherwise as a dot."""

    x: float
    y: float
    key: str
    colour: int
    says: str
    hollow: bool = False
    bar: tuple[float, float] | None = None
    lettered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a stacked bar."""

    key: str
    colour: int
    length: float
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stacked bar: a row's letter, colour and name, what is written beside the name, and its parts from the left."""

    key: str
    colour: int
    name: str
    value: str
    segments: tuple[Segment, ...]


def badge(key: str, colour: int, *, hollow: bool = False) -> Markup:
    """Return a row's letter as it is drawn in charts."""
    return element("span", key, class_=f"badge c{colour}{' hollow' if hollow else ''}", aria_hidden="true")


def legend(entries: Sequence[tuple[str, int, str, bool]]) -> Markup:
    """Return what the letters stand for: (key, colour, name, hollow) each."""
    items = (element("li", badge(key, colour, hollow=hollow), name) for key, colour, name, hollow in entries)
    return element("ul", *items, class_="legend")


def tracks(
    lines: Sequence[Track],
    axis: Axis,
    *,
    written: Written,
    unit: str,
    band: tuple[float, float, str] | None = None,
    mark: float | None = None,
) -> Markup:
    """Return a chart with a line for every row.

    Args:
        lines: from the top.
        axis: of all of them.
        written: a tick's value as text.
        unit: what the axis counts.
        band: (low, high, what it is): shaded behind all lines.
        mark: a value with a dashed line.
    """
    items = [
        element(
            "li",
            _head(line.key, line.colour, line.name, line.value, hollow=line.hollow),
            _svg(line.says, _LANE, _behind(axis, band, mark), _track(line, axis)),
        )
        for line in lines
    ]
    return join(element("ul", *items, class_="tracks"), _axis_below(axis, written, unit))


def stacked(bars: Sequence[Bar], axis: Axis, *, written: Written, unit: str) -> Markup:
    """Return stacked bars, from the top."""
    items = []
    for bar in bars:
        parts, at = [], 0.0
        for segment in bar.segments:
            parts.append(_segment(segment, axis.at(at), axis.at(at + segment.length)))
            at += segment.length
        says = f"{bar.name}: {bar.value}. " + "; ".join(segment.says for segment in bar.segments)
        drawing = _svg(says, _LANE, _behind(axis, None, None), *parts)
        items.append(element("li", _head(bar.key, bar.colour, bar.name, bar.value), drawing))
    return join(element("ul", *items, class_="tracks"), _axis_below(axis, written, unit))


def plane(
    marks: Sequence[Mark],
    x: Axis,
    y: Axis,
    *,
    says: str,
    x_unit: str,
    y_unit: str,
    x_written: Written,
    y_written: Written,
    lines: Sequence[tuple[tuple[float, float], tuple[float, float], str]] = (),
) -> Markup:
    """Return a chart of two axes.

    Args:
        marks: points; those that would cover each other are moved apart and tied to their place.
        x: from left to right.
        y: from bottom to top.
        says: the drawing in a sentence.
        x_unit: what x counts.
        y_unit: what y counts.
        x_written: a tick of x as text.
        y_written: a tick of y as text.
        lines: (from, to, class) each, behind the points.
    """

    def top(value: float) -> float:
        return _PLANE * (1 - y.at(value) / 100)

    parts = [
        join(
            element("line", x1="0", x2="100%", y1=top(tick), y2=top(tick), class_="grid"),
            element("text", y_written(tick), x=-6, y=top(tick) + 4, text_anchor="end"),
        )
        for tick in y.ticks
    ]
    parts += [_grid(x.at(tick), _PLANE) for tick in x.ticks]
    parts += [
        element("line", x1=_pc(x.at(a)), y1=top(b), x2=_pc(x.at(c)), y2=top(d), class_=kind)
        for (a, b), (c, d), kind in lines
    ]
    parts += [
        element(
            "line",
            x1=_pc(x.at(m.x)),
            x2=_pc(x.at(m.x)),
            y1=top(m.bar[0]),
            y2=top(m.bar[1]),
            class_=f"whisker c{m.colour}",
        )
        for m in marks
        if m.bar is not None
    ]
    lettered = [mark for mark in marks if mark.lettered]
    parts += [_dot(x.at(m.x), top(m.y), m) for m in marks if not m.lettered]
    places = _apart([(x.at(m.x), top(m.y)) for m in lettered])
    parts += [_thread(x.at(m.x), top(m.y), place, m) for m, place in zip(lettered, places, strict=True)]
    parts += [_letter(x.at(m.x), place, m) for m, place in zip(lettered, places, strict=True)]
    return element(
        "div",
        element("p", y_unit, class_="unit"),
        _svg(says, _PLANE, *parts),
        _axis_below(x, x_written, x_unit),
        class_="plane",
    )


def _head(key: str, colour: int, name: str, value: str, *, hollow: bool = False) -> Markup:
    """Return what stands above a line: the row, and its figure."""
    return element("p", badge(key, colour, hollow=hollow), element("span", name), element("b", value), class_="line")


def _svg(says: str, height: int, *parts: str) -> Markup:
    return element("svg", element("title", says), *parts, role="img", width="100%", height=height)


def _pc(share: float) -> str:
    return f"{share:.2f}%"


def _grid(at: float, height: float) -> Markup:
    return element("line", x1=_pc(at), x2=_pc(at), y1=0, y2=height, class_="grid")


def _behind(axis: Axis, band: tuple[float, float, str] | None, mark: float | None) -> Markup:
    parts = []
    if band is not None:
        left, right = axis.at(band[0]), axis.at(band[1])
        parts.append(
            element(
                "rect",
                element("title", band[2]),
                x=_pc(left),
                width=_pc(right - left),
                y=0,
                height=_LANE,
                class_="band",
            )
        )
    parts += [_grid(axis.at(tick), _LANE) for tick in axis.ticks]
    if mark is not None:
        parts.append(element("line", x1=_pc(axis.at(mark)), x2=_pc(axis.at(mark)), y1=0, y2=_LANE, class_="mark"))
    return join(*parts)


def _track(line: Track, axis: Axis) -> Markup:
    middle = _LANE / 2
    colour = f"c{line.colour}{' hollow' if line.hollow else ''}"
    left, right = axis.at(line.inner[0]), axis.at(line.inner[1])
    at = _pc(axis.at(line.middle))
    # dots lie in three lanes in turn, so that equal ones are seen as several
    dots = (
        element("circle", cx=_pc(axis.at(value)), cy=middle + (-8, 0, 8)[place % 3], r=2, class_=f"dot c{line.colour}")
        for place, value in enumerate(line.dots)
    )
    ends = (_pc(axis.at(end)) for end in line.whole)
    return join(
        *dots,
        element("line", **dict(zip(("x1", "x2"), ends, strict=True)), y1=middle, y2=middle, class_=f"whisker {colour}"),
        element(
            "rect",
            x=_pc(left),
            width=_pc(max(right - left, 0.4)),
            y=middle - 9,
            height=18,
            rx=2,
            class_=f"box {colour}",
        ),
        element("line", x1=at, x2=at, y1=middle - 13, y2=middle + 13, class_=f"middle {colour}"),
    )


def _segment(segment: Segment, left: float, right: float) -> Markup:
    width = right - left
    box = element(
        "rect",
        element("title", segment.says),
        x=_pc(left),
        width=_pc(width),
        y=5,
        height=_LANE - 10,
        class_=f"segment c{segment.colour}",
    )
    if width < 3.5:
        return box
    return join(
        box,
        element(
            "text",
            segment.key,
            x=_pc(left + width / 2),
            y=_LANE / 2 + 4,
            text_anchor="middle",
            class_=f"on c{segment.colour}",
        ),
    )


def _axis_below(axis: Axis, written: Written, unit: str) -> Markup:
    ticks = [
        element(
            "text", written(tick), x=_pc(at), y=13, text_anchor="start" if at < 3 else "end" if at > 97 else "middle"
        )
        for tick in axis.ticks
        for at in (axis.at(tick),)
    ]
    scale = f"{unit}, logarithmic" if axis.log else unit
    return join(
        element("svg", *ticks, width="100%", height=18, aria_hidden="true", class_="axis"),
        element("p", scale, class_="unit end"),
    )


def _dot(x: float, y: float, mark: Mark) -> Markup:
    return element(
        "circle",
        element("title", mark.says),
        cx=_pc(x),
        cy=y,
        r=4,
        class_=f"point c{mark.colour}{' hollow' if mark.hollow else ''}",
    )


def _thread(x: float, y: float, place: float, mark: Mark) -> Markup:
    """Tie a letter that was moved to where it belongs."""
    if abs(place - y) < 1:
        return Markup()
    return join(
        element("line", x1=_pc(x), x2=_pc(x), y1=y, y2=place, class_=f"thread c{mark.colour}"),
        element("circle", cx=_pc(x), cy=y, r=3, class_=f"point c{mark.colour}{' hollow' if mark.hollow else ''}"),
    )


def _letter(x: float, place: float, mark: Mark) -> Markup:
    colour = f"c{mark.colour}{' hollow' if mark.hollow else ''}"
    return element(
        "g",
        element("title", mark.says),
        element("circle", cx=_pc(x), cy=place, r=_RADIUS, class_=f"letter {colour}"),
        element("text", mark.key, x=_pc(x), y=place + 4, text_anchor="middle", class_=f"on {colour}"),
    )


def _apart(places: Sequence[tuple[float, float]]) -> list[float]:
    """Return heights for letters at (x in per cent, y in pixels), so that none covers another.

    Letters near to each other keep their order, and move no further than they must.
    """
    heights = [y for _, y in places]
    column: list[int] = []
    for index in sorted(range(len(places)), key=lambda i: places[i][0]):
        if column and places[index][0] - places[column[-1]][0] >= _NEAR:
            _spread(heights, column)
            column = []
        column.append(index)
    _spread(heights, column)
    return heights


def _spread(heights: list[float], column: Sequence[int]) -> None:
    """Put the letters of a column apart: least squares, under the condition that each is a step below the last."""
    if len(column) < 2:
        return
    step = min(2.0 * _RADIUS + 1, (_PLANE - 2.0 * _RADIUS) / (len(column) - 1))
    order = sorted(column, key=lambda i: heights[i])
    # pools of neighbours that touch: the mean of what each would have as its first, and how many there are
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        pools.append((heights[index] - rank * step, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, count), (last, more) = pools[-2:]
            pools[-2:] = [((mean * count + last * more) / (count + more), count + more)]
    firsts = [mean for mean, count in pools for _ in range(count)]
    maximum = _PLANE - _RADIUS - (len(order) - 1) * step
    for rank, index in enumerate(order):
        heights[index] = min(max(firsts[rank], _RADIUS), maximum) + rank * step
