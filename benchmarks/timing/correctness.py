"""Compare a candidate's detections with eager torchvision's, as ``frcnn compare`` does, in the run that times it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from frcnn.benchmarks.candidates.candidate import Runner
from frcnn.benchmarks.parity.comparison import compare_detections, default_limits, total
from frcnn.benchmarks.report.results import Correctness
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec, Precision, Size

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.eager_detector import Alternatives

Truth = Callable[[RGBImage, Size], Detections]
"""Returns what eager fp32 on the CPU finds in an image on a canvas (height, width)."""

_RANDOM: Final = (
    "none: random weights leave so many boxes nearly equal that rounding to bf16 or int8 decides which are kept"
)


def check(
    truth: Truth,
    runner: Runner,
    images: Sequence[RGBImage],
    spec: ModelSpec,
    precision: str,
    *,
    batch: int,
    is_trained: bool = True,
    alternatives: Callable[..., Alternatives] | None = None,
) -> tuple[Correctness, str]:
    """Compare a candidate with eager, image by image, and once more in one batch on one canvas.

    ``precision``, ``"tf32"`` among them, decides the limits; a ``batch`` of 1 leaves the batch out. With random weights
    bf16 and int8 are compared, but held to no limits; without ``alternatives`` ties are differences. Return the
    comparison, and the differences in words, which are empty where it passed. Whatever the candidate raises is passed
    on.
    """
    known: Precision = "fp16" if precision == "tf32" else cast("Precision", precision)  # both have 11 bits of mantissa
    limits = default_limits(known, spec.roi_heads.pooler.kind)
    canvases = [runner.canvas_of(image) for image in images]
    found = [(image, canvas, runner.detect([image])[0]) for image, canvas in zip(images, canvases, strict=True)]
    if batch > 1:
        same = [image for image, canvas in zip(images[:batch], canvases, strict=False) if canvas == canvases[0]]
        found += [(image, canvases[0], own) for image, own in zip(same, runner.detect(same), strict=True)]
    compared = [
        compare_detections(
            truth(image, canvas),
            own,
            spec,
            limits,
            name=image.name,
            alternatives=None if alternatives is None else partial(alternatives, image, canvas),
        )
        for image, canvas, own in found
    ]
    parity = total(compared, limits)
    same_names = ("expected", "found", "matched", "tied", "unmatched", "moved", "box_px", "score", "iou")
    is_judged = is_trained or known not in ("bf16", "int8")
    passed = parity.passed or not is_judged
    correctness = Correctness(
        passed=passed,
        limits=str(limits) if is_judged else _RANDOM,
        images=len(parity.images),
        relabelled=parity.total.label_mismatches,
        **{name: getattr(parity.total, name) for name in same_names},
    )
    return correctness, "" if passed else str(parity.total)
