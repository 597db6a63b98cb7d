"""Run eager torchvision and a model on the same images, in turns, for a while.

The calls that are timed are those whose detections are compared, scored and drawn: nothing is run twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from frcnn.benchmarks.accuracy.images import open_annotated
from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.candidate import Report
from frcnn.benchmarks.parity.comparison import Parity, compare_detections, default_limits, total
from frcnn.benchmarks.report.results import Measure
from frcnn.benchmarks.timing.measure import Group, Limits, Series, measure_groups
from frcnn.benchmarks.timing.statistics import measure_of
from frcnn.errors import ArtifactError, ImageError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.dataset.annotations import AnnotatedImage
from frcnn.spec import Size

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

T = TypeVar("T")

MAX_IMAGES: Final = 64
_MAX_PIXEL_BYTES: Final = 512 << 20
_ROUNDS: Final = 24
"""Of few images, which are gone round several times."""
_GOLDEN: Final = 0.6180339887498949


class Seen(NamedTuple):
    """An image, and what both found in it."""

    image: RGBImage
    eager: Detections
    model: Detections


class Trial(NamedTuple):
    """What was seen, by name, and its comparison; the times of both, None without a whole round."""

    seen: Sequence[Seen]
    parity: Parity
    eager: Measure | None
    model: Measure | None
    is_partial: bool


def spread(items: Sequence[T]) -> list[T]:
    """Return the items in an order whose every beginning is spread over the whole."""
    return [items[place] for place in sorted(range(len(items)), key=lambda place: place * _GOLDEN % 1)]


def read_images(
    files: Iterable[Path], annotated: Mapping[Path, AnnotatedImage]
) -> tuple[list[RGBImage], dict[Path, str]]:
    """Decode as many images as a trial takes; also return why others cannot be used. ImageError where none can."""
    images: list[RGBImage] = []
    skipped: dict[Path, str] = {}
    for file in files:
        try:
            images.append(open_annotated(file, annotated.get(file)))
        except ImageError as error:
            skipped[file] = str(error)
        if len(images) == MAX_IMAGES or sum(image.pixels.nbytes for image in images) > _MAX_PIXEL_BYTES:
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
        images: in the order in which they are taken: all that the budget allows, and one at least.
        budget_s: for the detecting.
        report: takes what goes on, and the share that is done.

    Raises:
        ArtifactError: one of the two failed.
        KeyboardInterrupt: before both had detected in one image.
    """
    canvases, spec = canvases_of(detector.manifest), eager.spec
    found: dict[int, Detections] = {}
    expected: dict[int, Detections] = {}

    def canvas_of(image: RGBImage) -> Size:
        return canvases.canvas_of(spec.transform.resized_size(*image.size), name=image.name)

    def run_eager(place: int) -> None:
        image = images[place]
        expected[place] = eager.detect(image, canvas_of(image))

    def run_model(place: int) -> None:
        (found[place],) = detector([images[place]])

    calls = {"eager torchvision": run_eager, "the model": run_model}
    series = [Series(candidate=name, windows=len(images), call=partial(partial, run)) for name, run in calls.items()]
    rounds = max(_ROUNDS, len(images))
    limits = Limits(budget_s=budget_s, min_rounds=1, max_rounds=rounds, max_calls=1, max_warm_up=1, warm_up_share=0.05)
    is_partial = False
    try:
        measure_groups([Group(scope="images", batch=1, series=series, required=True)], limits, report=report)
    except KeyboardInterrupt:
        is_partial = True
    for side in series:
        if side.failure:
            raise ArtifactError(f"{side.candidate} failed: {side.failure}", hint="--debug shows more")
    places = sorted(expected.keys() & found.keys(), key=lambda place: images[place].name)
    if not places:
        raise KeyboardInterrupt
    seen = [Seen(images[place], expected[place], found[place]) for place in places]
    held_to = default_limits(detector.manifest.precision, spec.roi_heads.pooler.kind)
    results = []
    for image, eager_found, own in seen:
        others = partial(eager.alternatives, image, canvas_of(image))
        results.append(compare_detections(eager_found, own, spec, held_to, name=image.name, alternatives=others))
    parity = total(results, held_to)
    first, second = series
    if not (first.rounds and second.rounds):
        return Trial(seen, parity, None, None, is_partial)
    eager_times = measure_of("images", 1, first.rounds, warm_up=first.warm_up, reference=None)
    times = measure_of("images", 1, second.rounds, warm_up=second.warm_up, reference=first.rounds)
    return Trial(seen, parity, eager_times, times, is_partial)
