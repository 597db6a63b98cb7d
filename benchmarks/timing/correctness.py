"""Does a row answer as eager torchvision does? The same comparison as ``frcnn compare``, in the run that times it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from frcnn.benchmarks.candidates.candidate import Runner
from frcnn.benchmarks.parity.comparison import Limits, Parity, PictureParity, compare_detections, default_limits, total
from frcnn.benchmarks.report.results import Correctness
from frcnn.runtime import Detections, Picture
from frcnn.spec import ModelSpec, Precision, Size

__all__ = ["Truth", "check"]


class Truth:
    """What eager fp32 on the CPU finds, each picture and canvas once.

    Args:
        detect: takes a picture and a canvas (height, width).
    """

    def __init__(self, detect: Callable[[Picture, Size], Detections]) -> None:
        self._detect = detect
        self._known: dict[tuple[int, Size], tuple[Picture, Detections]] = {}

    def __call__(self, picture: Picture, canvas: Size) -> Detections:
        """Return eager's detections in a picture on a canvas."""
        key = id(picture), canvas
        if key not in self._known:
            self._known[key] = picture, self._detect(picture, canvas)  # the picture is kept, and so is its id
        return self._known[key][1]


def check(
    truth: Truth, runner: Runner, pictures: Sequence[Picture], spec: ModelSpec, precision: str, *, batch: int
) -> Correctness:
    """Compare a row with eager, picture by picture, and once more in one batch.

    Args:
        truth: eager's answers.
        runner: the row.
        pictures: at least one.
        spec: the model's description.
        precision: of the row, ``"tf32"`` among them; it decides the limits.
        batch: pictures that one batch is made of; 1 leaves the batch out.

    Raises:
        Exception: whatever the row raises.
    """
    known: Precision = "fp16" if precision == "tf32" else cast("Precision", precision)  # both have 11 bits of mantissa
    limits = default_limits(known, spec.roi_heads.pooler.kind)
    compared = []
    for picture in pictures:
        (found,) = runner.detect([picture])
        expected = truth(picture, runner.canvas_of(picture))
        compared.append(compare_detections(expected, found, spec, limits, name=picture.name))
    if batch > 1:
        compared += _one_batch(truth, runner, pictures[:batch], spec, limits)
    return _of(total(compared, limits))


def _one_batch(
    truth: Truth, runner: Runner, pictures: Sequence[Picture], spec: ModelSpec, limits: Limits
) -> list[PictureParity]:
    """Compare the answers of one batch; on one canvas the answer for a picture does not depend on the others."""
    canvases = [runner.canvas_of(picture) for picture in pictures]
    same = [p for p, canvas in zip(pictures, canvases, strict=True) if canvas == canvases[0]]
    found = runner.detect(same)
    return [
        compare_detections(truth(p, canvases[0]), answer, spec, limits, name=f"{p.name}, in a batch")
        for p, answer in zip(same, found, strict=True)
    ]


def _of(parity: Parity) -> Correctness:
    t = parity.total
    return Correctness(
        passed=parity.passed,
        limits=in_words(parity.limits),
        pictures=len(parity.pictures),
        expected=t.expected,
        found=t.found,
        matched=t.matched,
        unmatched=t.unmatched,
        relabelled=t.label_mismatches,
        moved=t.moved,
        box_px=t.box_px,
        score=t.score,
        iou=t.iou,
    )


def in_words(limits: Limits) -> str:
    """Return limits as a reader wants them."""
    rule = {
        "exact": f"boxes within {limits.box_px:g} px, scores within {limits.score:g}",
        "overlap": f"above score {limits.min_score:g} IoU at least {limits.iou:g} for {1 - limits.moved:.0%} of pairs",
        "agreement": f"{1 - limits.unmatched:.0%} of detections above score {limits.min_score:g} agree",
    }[limits.rule]
    return f"{rule}; missing or relabelled at most {limits.unmatched:.1%}"
