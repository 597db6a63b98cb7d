"""Run eager torchvision and a model on the same images, in turns, for a while.

The calls that are timed are those whose detections are compared, scored and drawn: nothing is run twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from frcnn.benchmarks.accuracy.images import Collected, DetectedImage, require_size
from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.parity.comparison import Parity, compare_detections, default_limits, total
from frcnn.benchmarks.report.results import Measure
from frcnn.benchmarks.timing.measure import Group, Limits, Report, Series, measure_groups
from frcnn.benchmarks.timing.statistics import measure_of
from frcnn.errors import ArtifactError, ImageError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.dataset.annotations import AnnotatedImage

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

T = TypeVar("T")

MAX_IMAGES: Final = 64
_MAX_PIXEL_BYTES: Final = 512 << 20
_ROUNDS: Final = 24
"""Of a set of few images, which is gone round several times."""
_GOLDEN: Final = 0.6180339887498949


class Seen(NamedTuple):
    """An image, and what both found in it."""

    image: RGBImage
    eager: Detections
    model: Detections


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was seen.

    Attributes:
        seen: the images that both detected in.
        parity: their comparison, in the order of ``seen``.
        eager: eager's times, an image at a time; ``model``: the model's, with the ratio. None without a whole round.
        is_partial: whether it was interrupted.
    """

    seen: Sequence[Seen]
    parity: Parity
    eager: Measure | None
    model: Measure | None
    is_partial: bool

    def collected(self, annotated: Mapping[str, AnnotatedImage]) -> Collected:
        """Return the detections as an evaluation takes them."""
        rows = [DetectedImage(Path(s.image.name), annotated[s.image.name], s.model, s.eager) for s in self.seen]
        return Collected(images=rows, is_partial=self.is_partial)


def spread(items: Sequence[T]) -> list[T]:
    """Return the items in an order whose every beginning is spread over the whole."""
    return [items[place] for place in sorted(range(len(items)), key=lambda place: place * _GOLDEN % 1)]


def read_images(
    files: Iterable[Path], annotated: Mapping[str, AnnotatedImage]
) -> tuple[list[RGBImage], dict[str, str]]:
    """Decode as many as a trial takes; also return why others cannot be used, by name.

    Raises:
        ImageError: not one can be used.
    """
    images: list[RGBImage] = []
    skipped: dict[str, str] = {}
    left = _MAX_PIXEL_BYTES
    for file in files:
        try:
            image = RGBImage.open(file)
            if image.name in annotated:
                require_size(image, annotated[image.name])
        except ImageError as error:
            skipped[str(file)] = str(error)
            continue
        images.append(image)
        left -= image.pixels.nbytes
        if len(images) == MAX_IMAGES or left <= 0:
            break
    if not images:
        raise ImageError(f"--images: not one image can be used: {next(iter(skipped.values()), 'there is none')}")
    return images, skipped


def run_trial(
    eager: EagerDetector, detector: Detector, images: Sequence[RGBImage], *, budget_s: float, report: Report
) -> Trial:
    """Detect in turns until the budget is spent, and compare; Ctrl-C ends it early and keeps what was seen.

    Args:
        eager: the checkpoint in torchvision.
        detector: its export.
        images: in the order in which they are taken; all that the budget allows, and one at least.
        budget_s: for the detecting.
        report: takes what goes on, and the share that is done.

    Raises:
        ArtifactError: one of the two failed.
        KeyboardInterrupt: before both had detected in one image.
    """
    canvases, spec = canvases_of(detector.manifest), eager.spec
    found: tuple[dict[int, Detections], dict[int, Detections]] = ({}, {})

    def with_eager(place: int) -> None:
        image = images[place]
        canvas = canvases.canvas_of(spec.transform.resized_size(*image.size), name=image.name)
        found[0][place] = eager.detect(image, canvas)

    def with_model(place: int) -> None:
        (found[1][place],) = detector([images[place]])

    sides = [
        Series(candidate=name, windows=len(images), call=lambda place, run=run: lambda: run(place))  # type: ignore[misc]
        for name, run in (("eager torchvision", with_eager), ("the model", with_model))
    ]
    group = Group(scope="images", batch=1, series=sides, required=True)
    rounds = max(_ROUNDS, len(images))
    limits = Limits(budget_s=budget_s, min_rounds=1, max_rounds=rounds, max_calls=1, max_warm_up=1, warm_up_share=0.05)
    is_partial = False
    try:
        measure_groups([group], limits, report=report)
    except KeyboardInterrupt:
        is_partial = True
    for side in sides:
        if side.failure:
            raise ArtifactError(f"{side.candidate} failed: {side.failure}", hint="--debug shows more")
    places = sorted(found[0].keys() & found[1].keys(), key=lambda place: images[place].name)
    if not places:
        raise KeyboardInterrupt
    seen = [Seen(images[place], found[0][place], found[1][place]) for place in places]
    held_to = default_limits(detector.manifest.precision, spec.roi_heads.pooler.kind)
    compared = [compare_detections(s.eager, s.model, spec, held_to, name=s.image.name) for s in seen]
    measures: list[Measure | None] = [None, None]
    if all(side.rounds for side in sides):
        reference = sides[0].rounds
        measures = [
            measure_of(
                "images", 1, side.rounds, warm_up=side.warm_up, reference=None if side is sides[0] else reference
            )
            for side in sides
        ]
    return Trial(
        seen=seen, parity=total(compared, held_to), eager=measures[0], model=measures[1], is_partial=is_partial
    )
