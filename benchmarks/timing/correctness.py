"""Does a row answer as eager torchvision does? The same comparison as ``frcnn compare``, in the run that times it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from frcnn.benchmarks.candidates.candidate import Runner
from frcnn.benchmarks.parity.comparison import ImageParity, Limits, Parity, compare_detections, default_limits, total
from frcnn.benchmarks.report.results import Correctness
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec, Precision, Size

__all__ = ["Truth", "check"]


class Truth:
    """What eager fp32 on the CPU finds, each image and canvas once.

    Args:
        detect: takes an image and a canvas (height, width).
    """

    def __init__(self, detect: Callable[[RGBImage, Size], Detections]) -> None:
        self._detect = detect
        self._known: dict[tuple[int, Size], tuple[RGBImage, Detections]] = {}

    def __call__(self, image: RGBImage, canvas: Size) -> Detections:
        """Return eager's detections in an image on a canvas."""
        key = id(image), canvas
        if key not in self._known:
            self._known[key] = image, self._detect(image, canvas)  # the image is kept, and so is its id
        return self._known[key][1]


def check(
    truth: Truth, runner: Runner, images: Sequence[RGBImage], spec: ModelSpec, precision: str, *, batch: int
) -> Correctness:
    """Compare a row with eager, image by image, and once more in one batch.

    Args:
        truth: eager's answers.
        runner: the row.
        images: at least one.
        spec: the model's description.
        precision: of the row, ``"tf32"`` among them; it decides the limits.
        batch: images that one batch is made of; 1 leaves the batch out.

    Raises:
        Exception: whatever the row raises.
    """
    known: Precision = "fp16" if precision == "tf32" else cast("Precision", precision)  # both have 11 bits of mantissa
    limits = default_limits(known, spec.roi_heads.pooler.kind)
    compared = []
    for image in images:
        (found,) = runner.detect([image])
        expected = truth(image, runner.canvas_of(image))
        compared.append(compare_detections(expected, found, spec, limits, name=image.name))
    if batch > 1:
        compared += _one_batch(truth, runner, images[:batch], spec, limits)
    return _of(total(compared, limits))


def _one_batch(
    truth: Truth, runner: Runner, images: Sequence[RGBImage], spec: ModelSpec, limits: Limits
) -> list[ImageParity]:
    """Compare the answers of one batch; on one canvas the answer for an image does not depend on the others."""
    canvases = [runner.canvas_of(image) for image in images]
    same = [p for p, canvas in zip(images, canvases, strict=True) if canvas == canvases[0]]
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
        images=len(parity.images),
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
