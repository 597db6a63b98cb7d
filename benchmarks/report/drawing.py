"""Drawing with matplotlib: SVG for a page, and the parts that several figures share.

A figure is ``_WIDTH`` units wide, so that its text can be read on a phone and two of them stand side by side elsewhere.
Colours are names of the page's style sheet, for light and dark.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.util import find_spec
from io import StringIO
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Literal

from frcnn.benchmarks.report.document import Cell
from frcnn.benchmarks.report.formatting import tick
from frcnn.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW: Final = 42
"""Height of a row: its name, and its bar or box under it."""
_PLANE: Final = 240
"""Height of a figure of two axes."""
_WIDTH: Final = 370
_LETTER: Final = 17.0
"""Letters nearer to each other would touch."""
# Placeholders that matplotlib takes for colours; the style sheet has the colours themselves.
_VARIABLES: Final = ("ink", "soft", "rule", "band", "panel", "on", *(f"c{place}" for place in range(8)))
_PLACEHOLDERS: Final = {f"#a1b2{place:02x}": f"var(--{name})" for place, name in enumerate(_VARIABLES)}
INK, _SOFT, _RULE, _BAND, _PANEL, _ON, *_SERIES = _PLACEHOLDERS
_STYLE: Final[dict[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.labelcolor": _SOFT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _SOFT,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": 72,
    "font.size": 11,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "frcnn",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": _RULE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "ytick.left": False,
}


def check_renderer(*packages: str) -> None:
    """Fail before a long run rather than after it; a page needs Jinja2, and matplotlib where it has figures."""
    for package in packages or ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingDependencyError(package, extra="report", why="writing a report")


def svg(draw: Callable[[Axes], object], label: str, rows: int = 0) -> str:
    """Return a figure of named rows, or of two axes, as HTML; ``label`` is for those who cannot see it."""
    check_renderer()
    from matplotlib import style
    from matplotlib.figure import Figure

    left, above, height = (10, 4, _ROW * rows) if rows else (50, 24, _PLANE)
    below, right = 36, 14
    whole = above + height + below
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # the browser has the font
        figure = Figure(figsize=(_WIDTH / 72, whole / 72))
        draw(figure.add_axes((left / _WIDTH, below / whole, 1 - (left + right) / _WIDTH, height / whole)))
        buffer = StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inline(buffer.getvalue(), f'<svg viewBox="0 0 {_WIDTH} {whole:g}" role="img" aria-label="{escape(label)}">')


def _inline(document: str, start: str) -> str:
    """Return matplotlib's SVG as part of a page: fluid, with the page's font and colours, and ids of its own."""
    body = document[document.index(">", document.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: ((?:\w+ )?[\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", body)
    for placeholder, variable in _PLACEHOLDERS.items():
        body = body.replace(placeholder, variable)
    own = hashlib.sha256(document.encode()).hexdigest()[:8]
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{own}-", body).replace("xlink:href", "href")
    return start + re.sub(r"\s*\n\s*", "\n", body).strip()


def scale(
    axes: Axes,
    which: Literal["x", "y"],
    unit: str,
    values: Iterable[float],
    *,
    low: float = 0.0,
    high: float | None = None,
    log: bool | None = None,
    margin: float = 1.2,
    ticks: Sequence[float] = (),
) -> None:
    """Give an axis its unit and a scale: logarithmic where values are orders of magnitude apart, else linear.

    A linear one goes from ``low`` to ``high``, or to beyond the values; ``margin`` is a factor at both ends of a
    logarithmic one, which ``log`` or its ``ticks`` ask for.
    """
    from matplotlib import ticker

    found = [*values, low]
    positive = [value for value in found if value > 0] or [1.0]
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ticks or log or (log is None and max(positive) > 20 * min(positive)):
        ends = (min(positive) / margin, max(positive) * margin)
        decades = math.log10(ends[1] / ends[0])
        subs = (1, 2, 5) if decades < 1.8 else (1, 3) if decades < 2.8 else (1,)
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=7))
        axis.set_minor_locator(ticker.NullLocator())
        unit += "" if ticks else ", logarithmic"
    else:
        ends = (low, high or low + ((max(found) - low) * 1.04 or 1.0))
        axis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    if ticks:
        axis.set_major_locator(ticker.FixedLocator(ticks[:: math.ceil(len(ticks) / 6)]))
    axes.set(**{f"{which}lim": ends})
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: tick(value)))
    if which == "x":
        axes.set_xlabel(_fitting(unit, 200), loc="right")
    else:
        axes.set_title(unit, pad=11, x=-0.14)


def mark(axes: Axes, x: float, *, around: float = 0.0) -> None:
    """Draw a dashed line, on a band that reaches so far to both sides."""
    if around:
        axes.axvspan(x - around, x + around, color=_BAND, lw=0)
    axes.axvline(x, color=INK, lw=1.2, ls="--")


def _fitting(text: str, width: float) -> str:
    """Return a text, its middle left out where it is too long: names and units come from files."""
    from matplotlib.textpath import TextPath

    text = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
    short, half = text if len(text) <= 60 else f"{text[:30]}…{text[-30:]}", 30
    while half > 1 and TextPath((0, 0), short, size=11).get_extents().width > width:
        half -= 1
        short = f"{text[:half]}…{text[-half:]}" if 2 * half < len(text) else text
    return short


def name_rows(axes: Axes, rows: Sequence[tuple[Cell, str]]) -> None:
    """Write every row's letter, name and value above its place."""
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    at["bbox"] = {"fc": _PANEL, "ec": "none", "pad": 1.5}
    for place, (cell, value) in enumerate(rows):
        height, indent = place - 0.32, 8 + 8 * len(cell.key)
        name = _fitting(cell.text, axes.bbox.width - indent - 8 * len(value))
        axes.annotate(cell.key, (0, height), (0, 0), color=_look(cell)[0], weight="bold", **at)
        axes.annotate(name, (0, height), (indent, 0), **at)
        axes.annotate(value, (1, height), (0, 0), ha="right", weight="bold", **at)


def box(axes: Axes, place: float, cell: Cell, five: Sequence[float]) -> None:
    """Draw a box with whiskers: ``five`` are the smallest, the box's start, the median, its end, the largest."""
    colour, _, dashes = _look(cell)
    axes.bxp(
        [dict(zip(("whislo", "q1", "med", "q3", "whishi"), five, strict=True))],
        positions=[place + 0.12],
        widths=0.4,
        orientation="horizontal",
        showfliers=False,
        showcaps=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": "none" if cell.hollow else colour, "edgecolor": colour, "alpha": 0.5, "ls": dashes},
        whiskerprops={"color": colour, "lw": 1.4, "ls": dashes},
        medianprops={"color": colour, "lw": 3.2},
    )


def dots(axes: Axes, place: float, cell: Cell, values: Sequence[float]) -> None:
    """Draw sorted values as dots, at most 120 of them, in three lines, so that equal ones are seen as several."""
    shown = values[:: -math.ceil(len(values) / 120)]  # counted from the largest, which is always shown
    heights = [place + 0.12 + (-0.16, 0, 0.16)[index % 3] for index in range(len(shown))]
    axes.plot(shown, heights, ls="", marker="o", ms=3, mew=0, alpha=0.5, color=_look(cell)[0])


def _look(cell: Cell) -> tuple[str, str, str]:
    """Return the colour of a series, what fills its markers, and the style of its lines."""
    colour = _SERIES[cell.colour]
    return (colour, _PANEL, "--") if cell.hollow else (colour, colour, "-")


def bars(rows: Sequence[tuple[Cell, str, Sequence[tuple[Cell, float]]]], *, unit: str, label: str) -> str:
    """Return stacked bars, from the top: a name, its value as text, and its parts with their lengths."""

    def draw(axes: Axes) -> None:
        totals = [sum(length for _, length in parts) for _, _, parts in rows]
        scale(axes, "x", unit, totals, log=False)
        for place, (_, _, parts) in enumerate(rows):
            start = 0.0
            for cell, length in parts:
                axes.barh(place + 0.14, length, 0.5, start, color=_SERIES[cell.colour], edgecolor=_PANEL)
                if length > 0.04 * max(totals):
                    at = (start + length / 2, place + 0.14)
                    axes.text(*at, cell.key, color=_ON, size=9, weight="bold", ha="center", va="center")
                start += length
        name_rows(axes, [(cell, value) for cell, value, _ in rows])

    return svg(draw, label, rows=len(rows))


def lines(
    series: Sequence[tuple[Cell, Sequence[tuple[float, float, float, float]]]],
    *,
    x: str,
    y: str,
    ticks: Sequence[float] = (),
) -> str:
    """Return a line for every series, its letter at the end.

    A series' points are x, y, and the ends of a bar (y twice where there is none). ``ticks`` make x logarithmic.
    """
    points = [point for _, of_series in series for point in of_series]
    xs = [point[0] for point in points]

    def draw(axes: Axes) -> None:
        scale(axes, "x", x, xs, log=None if min(xs) > 0 else False, margin=1.08, ticks=ticks)
        scale(axes, "y", y, [end for point in points for end in point[1:]])
        for cell, of_series in series:
            at, values, low, high = zip(*of_series, strict=True)
            colour, ground, dashes = _look(cell)
            axes.plot(at, values, marker="o", ms=4, color=colour, mfc=ground, ls=dashes, clip_on=False)
            axes.vlines(at, low, high, color=colour, lw=1.2)
        letters(axes, [(*of_series[-1][:2], cell) for cell, of_series in series])

    return svg(draw, f"{y[:1].upper()}{y[1:]} against {x}; the numbers are in the table")


def letters(axes: Axes, points: Sequence[tuple[float, float, Cell]]) -> None:
    """Draw lettered points; letters that would cover each other are moved up and down and tied to their points."""
    ordered = sorted(points, key=lambda point: point[1])
    if not ordered:
        return
    places = axes.transData.transform([point[:2] for point in ordered])
    heights = list(places[:, 1])
    near = [
        (low, high)
        for low, high in combinations(range(len(ordered)), 2)
        if abs(places[low, 0] - places[high, 0]) < _LETTER
    ]
    for _ in range(100):
        for low, high in near:
            overlap = max(0.0, _LETTER - heights[high] + heights[low])
            heights[low] = max(heights[low] - overlap / 2, axes.bbox.ymin)
            heights[high] = min(heights[high] + overlap / 2, axes.bbox.ymax)
    for (x, y, cell), (across, up), height in zip(ordered, places, heights, strict=True):
        (colour, ground, dashes), moved = _look(cell), axes.transData.inverted().transform((across, height))[1]
        if abs(height - up) > 1:
            axes.plot([x, x], [y, moved], color=colour, lw=1, clip_on=False)
            axes.plot([x], [y], marker="o", ms=4, color=colour, mfc=ground, clip_on=False)
        circle = {"boxstyle": "circle,pad=0.25", "fc": ground, "ec": colour, "ls": dashes}
        ink = colour if cell.hollow else _ON
        axes.text(x, moved, cell.key, ha="center", va="center", size=9, weight="bold", color=ink, bbox=circle, zorder=5)
