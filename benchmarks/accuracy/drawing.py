"""Draw the detections that differ: eager's on the left, the model's on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from frcnn.benchmarks.accuracy.images import DetectedImage
from frcnn.benchmarks.parity.matching import match
from frcnn.runtime import Detections
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.sources import output_names, refuse_overwriting
from frcnn.runtime.results.display import write_image
from frcnn.runtime.results.draw import Colour, annotate

_SAME, _MOVED, _RELABELLED, _ALONE = range(4)
_COLOURS: Final[tuple[Colour, ...]] = ((86, 180, 233), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""By kind, of the palette of Okabe and Ito."""
_NAMES: Final = ("in both", "moved", "other label", "only here")
_MOVED_IOU: Final = 0.9

_BACKGROUND: Final[Colour] = (24, 24, 24)
_TEXT: Final[Colour] = (240, 240, 240)
_GAP_PX: Final = 8
_MIN_FONT_PX: Final = 12


class Difference(NamedTuple):
    """An image in which detections differ."""

    file: Path
    sides: tuple[Detections, Detections]  # eager's detections and the model's, without those that score too little
    kinds: tuple[NDArray[np.int64], NDArray[np.int64]]  # of each detection of either side, a place in _NAMES
    score: float  # the highest of a detection that differs


def find_differences(images: Sequence[DetectedImage], *, min_score: float) -> list[Difference]:
    """Return the images in which detections differ, the highest scores first.

    A detection differs where the other side has none that overlaps it by an IoU of 0.5, or has one of another label, or
    one that overlaps by less than 0.9. One that scores less than ``min_score`` may be a partner, but does not count.
    """
    differences = [item for image in images if (item := _difference(image, min_score)) is not None]
    return sorted(differences, key=lambda item: (-item.score, item.file))


def draw_pair(item: Difference, pixels: NDArray[np.uint8], *, titles: tuple[str, str]) -> NDArray[np.uint8]:
    """Return the image, (H, W, 3) uint8 RGB, twice side by side: detections of either side, a legend above them."""
    halves, legends = [], []
    for side, kinds, title in zip(item.sides, item.kinds, titles, strict=True):
        halves.append(Image.fromarray(annotate(pixels, side, colours=[_COLOURS[kind] for kind in kinds])))
        counts = zip(np.bincount(kinds, minlength=len(_NAMES)), _NAMES, _COLOURS, strict=True)
        legends.append([(title, _TEXT), *((f"{count} {name}", colour) for count, name, colour in counts if count)])
    width, height = halves[0].size
    font_px = max(_MIN_FONT_PX, width // 36)
    font, line_px = ImageFont.load_default(font_px), round(font_px * 1.4)
    legend_px = line_px * max(map(len, legends))
    sheet = Image.new("RGB", (2 * width + _GAP_PX, legend_px + height), _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)
    for left, half, legend in zip((0, width + _GAP_PX), halves, legends, strict=True):
        for number, (text, colour) in enumerate(legend):
            place = (left + line_px // 2, number * line_px + line_px // 2)
            canvas.text(place, text, font=font, fill=colour, anchor="lm")
        sheet.paste(half, (left, legend_px))
    return np.asarray(sheet)


def drawing_paths(items: Sequence[Difference], folder: Path) -> dict[Path, Difference]:
    """Return where each pair is drawn in a folder; raise UsageError if that would overwrite an input."""
    names = output_names(item.file for item in items)
    paths = {folder / names[item.file]: item for item in items}
    refuse_overwriting(paths, [item.file for item in items])
    return paths


def write_pairs(paths: Mapping[Path, Difference], *, titles: tuple[str, str]) -> None:
    """Draw pairs into their files."""
    for path, item in paths.items():
        write_image(path, draw_pair(item, RGBImage.open(item.file).uint8(), titles=titles))


def _difference(image: DetectedImage, min_score: float) -> Difference | None:
    assert image.eager is not None
    eager, model = sides = image.eager, image.model
    matches = match(eager, model)
    e, m = matches.pairs.T
    kinds = [np.full(len(side), _ALONE, np.int64) for side in sides]
    same = np.where(matches.ious >= _MOVED_IOU, _SAME, _MOVED)
    kinds[0][e] = kinds[1][m] = np.where(eager.labels[e] == model.labels[m], same, _RELABELLED)
    shown = [side.scores >= np.float32(min_score) for side in sides]
    scores = [side.scores[rows & (kind != _SAME)] for side, kind, rows in zip(sides, kinds, shown, strict=True)]
    highest = float(np.concatenate(scores).max(initial=-1.0))
    if highest < 0:
        return None
    # of a pair both are drawn where one is shown: else the other would look as if it were alone
    shown[0][e] = shown[1][m] = shown[0][e] | shown[1][m]
    return Difference(image.file, (eager[shown[0]], model[shown[1]]), (kinds[0][shown[0]], kinds[1][shown[1]]), highest)
