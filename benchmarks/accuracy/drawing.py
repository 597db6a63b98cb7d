"""Draw where eager and a model differ: eager on the left, the model on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from frcnn.benchmarks.accuracy.collecting import Answer
from frcnn.benchmarks.parity.matching import match
from frcnn.errors import OutputError
from frcnn.files import replacing, writable_folder
from frcnn.runtime import Detections
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.sources import output_names
from frcnn.runtime.results.draw import Colour, annotate

__all__ = ["Differing", "differing", "draw_pair", "write_pairs"]

_SAME, _MOVED, _RELABELLED, _ALONE = range(4)
_COLOURS: Final[tuple[Colour, ...]] = ((86, 180, 233), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""By kind, of the palette of Okabe and Ito."""
_WORDS: Final = ("in both", "moved", "other label", "only here")
_MOVED_IOU: Final = 0.9

_GROUND: Final[Colour] = (24, 24, 24)
_TEXT: Final[Colour] = (240, 240, 240)
_GAP_PX: Final = 8
_MIN_FONT_PX: Final = 12

_Word = tuple[int, str, Colour]
"""Where a word begins, the word, its colour."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Differing:
    """An image in which the two differ.

    Attributes:
        answer: what both found, what scores too little left out.
        eager: kind of each of eager's detections: in both, moved, other label, only there.
        model: likewise the model's.
        weight: the highest score of a detection that differs.
    """

    answer: Answer
    eager: NDArray[np.int64]
    model: NDArray[np.int64]
    weight: float


def differing(answers: Sequence[Answer], *, score: float) -> list[Differing]:
    """Return the images in which the two differ, those with the surest differences first.

    A detection differs where the other side has none that overlaps it by an IoU of 0.5, or has one of another label, or
    one that overlaps by less than 0.9. What scores less than ``score`` may be a partner, but does not count by itself.
    """
    found = [item for answer in answers if (item := _differing(answer, score)) is not None]
    return sorted(found, key=lambda item: (-item.weight, item.answer.file))


def draw_pair(item: Differing, pixels: NDArray[np.uint8], *, titles: tuple[str, str]) -> NDArray[np.uint8]:
    """Return the image twice, side by side, with what each side found and a line above that says how to read it.

    Args:
        item: what to draw.
        pixels: (H, W, 3) uint8 RGB.
        titles: what the left and the right side are called.
    """
    assert item.answer.eager is not None
    sides = ((item.answer.eager, item.eager), (item.answer.model, item.model))
    drawn = [annotate(pixels, found, colours=[_COLOURS[kind] for kind in kinds]) for found, kinds in sides]
    strips = _titles([_words(title, kinds) for title, (_, kinds) in zip(titles, sides, strict=True)], drawn[0].shape[1])
    halves = [np.concatenate(both) for both in zip(strips, drawn, strict=True)]
    gap = np.full((halves[0].shape[0], _GAP_PX, 3), _GROUND, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=1)


def write_pairs(items: Sequence[Differing], folder: Path, *, titles: tuple[str, str]) -> list[Path]:
    """Draw pairs into a folder.

    Raises:
        ImageError: an image is there no more.
        OutputError: the folder cannot be written.
    """
    writable_folder(folder)
    names = output_names(item.answer.file for item in items)
    written = []
    for item in items:
        target = folder / names[item.answer.file]
        if target.exists() and target.samefile(item.answer.file):
            raise OutputError(f"{target} is an input and would be overwritten", hint="choose another folder with -o")
        pair = draw_pair(item, RGBImage.open(item.answer.file).uint8(), titles=titles)
        with replacing(target) as temporary:
            Image.fromarray(pair).save(temporary, quality=92)
        written.append(target)
    return written


def _differing(answer: Answer, score: float) -> Differing | None:
    assert answer.eager is not None
    eager, model = answer.eager, answer.model
    matches = match(eager, model)
    e, m = matches.pairs[:, 0], matches.pairs[:, 1]
    of_eager, of_model = (np.full(len(side), _ALONE, np.int64) for side in (eager, model))
    same = np.where(matches.ious >= _MOVED_IOU, _SAME, _MOVED)
    of_eager[e] = of_model[m] = np.where(eager.labels[e] == model.labels[m], same, _RELABELLED)
    sure_eager, sure_model = (side.scores >= np.float32(score) for side in (eager, model))
    weight = max(
        float(eager.scores[sure_eager & (of_eager != _SAME)].max(initial=-1.0)),
        float(model.scores[sure_model & (of_model != _SAME)].max(initial=-1.0)),
    )
    if weight < 0:
        return None
    # of a pair both are drawn where one is sure: else the other would look as if it were alone
    sure_eager[e] = sure_model[m] = sure_eager[e] | sure_model[m]
    shown = Answer(file=answer.file, truth=answer.truth, model=_rows(model, sure_model), eager=_rows(eager, sure_eager))
    return Differing(answer=shown, eager=of_eager[sure_eager], model=of_model[sure_model], weight=weight)


def _rows(found: Detections, rows: NDArray[np.bool_]) -> Detections:
    return Detections(
        boxes=found.boxes[rows],
        scores=found.scores[rows],
        labels=found.labels[rows],
        image_size=found.image_size,
        source=found.source,
        label_names=found.label_names,
    )


def _words(title: str, kinds: NDArray[np.int64]) -> list[tuple[str, Colour]]:
    """Return what stands above a side: whose it is, and how many of each kind in that kind's colour."""
    counts = [(int((kinds == kind).sum()), kind) for kind in range(len(_WORDS))]
    return [(title, _TEXT), *((f"{count} {_WORDS[kind]}", _COLOURS[kind]) for count, kind in counts if count)]


def _lines(words: Sequence[tuple[str, Colour]], width: int, font: ImageFont.FreeTypeFont) -> list[list[_Word]]:
    """Break words into lines of a width."""
    space = round(font.size)
    lines: list[list[_Word]] = [[]]
    x = space // 2
    for text, colour in words:
        length = round(font.getlength(text))
        if lines[-1] and x + length > width:
            lines.append([])
            x = space // 2
        lines[-1].append((x, text, colour))
        x += length + space
    return lines


def _titles(texts: Sequence[Sequence[tuple[str, Colour]]], width: int) -> list[NDArray[np.uint8]]:
    """Return a strip (h, width, 3) for each side, all of one height."""
    font = ImageFont.load_default(max(_MIN_FONT_PX, width // 36))
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType and its font
    laid_out = [_lines(words, width, font) for words in texts]
    line_px = round(font.size * 1.4)
    strips = []
    for lines in laid_out:
        strip = Image.new("RGB", (width, line_px * max(map(len, laid_out))), _GROUND)
        canvas = ImageDraw.Draw(strip)
        for number, line in enumerate(lines):
            for x, text, colour in line:
                canvas.text((x, number * line_px + line_px // 2), text, font=font, fill=colour, anchor="lm")
        strips.append(np.asarray(strip))
    return strips
