"""BoxDetections on CUDA: three launches.

``BoxDetectionsCandidates`` writes the softmax of each RoI as two numbers, and which scores are over the threshold as
bits, a word for 32 RoIs of a class. ``BoxDetectionsSuppress`` has a block for each class and image, which decodes,
sorts and suppresses, and writes a list of at most min(K, R) detections, 24 bytes each: 216 KB for 90 classes and
K = 100.
``BoxDetectionsSelect`` merges the lists of an image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Unpack, get_args

from frcnn.plugins.box_detections.spec import SPEC
from frcnn.plugins.boxes.kernel import BoxOptions, box_constants
from frcnn.plugins.kernel import ELEMENT_NUMBERS, Constant, Element, Kernel, check_choice
from frcnn.plugins.operator import Tensor

MAX_ROIS: Final = 4096
"""Most RoIs of an image: a block sorts the candidates of a class in shared memory."""

MAX_DETECTIONS: Final = 4096
"""Most detections of an image: a block sorts them in shared memory."""

_SUPPRESS_THREADS: Final = 256
_SELECT_THREADS: Final = 1024
_SELECT_KEYS: Final = 5 * _SELECT_THREADS  # in shared memory; room to add where MAX_DETECTIONS are held

# A key of 64 bits holds a score from 0 to 1 in 30 bits, the RoI, and the place in the lists of all classes.
_ROI_BITS: Final = 12
_PLACE_BITS: Final = 22


def kernels(
    *, element: Element = "float32", max_detections: int, **options: Unpack[BoxOptions]
) -> tuple[Kernel, Kernel, Kernel]:
    """Return the three kernels for the operator's attributes; raise KernelError for values that none has."""
    check_choice("element", element, get_args(Element))
    constants: dict[str, Constant] = {
        "ELEMENT": ELEMENT_NUMBERS[element],
        **box_constants(options, max_detections=(max_detections, MAX_DETECTIONS)),
        "MAX_DETECTIONS": max_detections,
    }
    rois, image_sizes, class_logits, box_deltas = (
        replace(tensor, element=element) if tensor.element == "features" else tensor for tensor in SPEC.inputs
    )
    statistics = Tensor(name="statistics", element="float32", shape=("N*R", "2"))
    candidates = Tensor(name="candidates", element="int32", shape=("N", "C - 1", "ceil_div(R, 32)"))
    limits = {"R": (0, MAX_ROIS), "C": (2, 2**_PLACE_BITS // max_detections + 1)}
    return (
        Kernel(
            entry="box_detections_candidates",
            plugin="BoxDetectionsCandidates",
            source="box_detections/candidates.cu",
            constants={name: constants[name] for name in ("ELEMENT", "SCORE_THRESHOLD")},
            inputs=(rois, class_logits),
            integers=("R", "C"),
            outputs=(statistics, candidates),
            grid=("ceil_div(R, 32)", "N", "1"),
            block=(1024, 1, 1),
            limits=limits,
        ),
        Kernel(
            entry="box_detections_suppress",
            plugin="BoxDetectionsSuppress",
            source="box_detections/suppress.cu",
            constants={**constants, "THREADS": _SUPPRESS_THREADS, "MAX_ROIS": MAX_ROIS},
            inputs=(rois, image_sizes, class_logits, box_deltas, statistics, candidates),
            integers=("R", "C"),
            outputs=_kept("C - 1", f"min({max_detections}, R)"),
            grid=("C - 1", "N", "1"),
            block=(_SUPPRESS_THREADS, 1, 1),
            limits=limits,
        ),
        Kernel(
            entry="box_detections_select",
            plugin="BoxDetectionsSelect",
            source="box_detections/select.cu",
            constants={
                **constants,
                "ELEMENT": ELEMENT_NUMBERS["float32"],  # it reads no features
                "THREADS": _SELECT_THREADS,
                "MAX_KEYS": _SELECT_KEYS,
                "ROI_BITS": _ROI_BITS,
                "PLACE_BITS": _PLACE_BITS,
            },
            inputs=_kept("G", "L"),
            integers=("G", "L"),
            outputs=tuple(
                replace(tensor, shape=tuple(str(max_detections) if size == "K" else size for size in tensor.shape))
                for tensor in SPEC.outputs
            ),
            grid=("N", "1", "1"),
            block=(_SELECT_THREADS, 1, 1),
        ),
    )


def _kept(lists: str, length: str) -> tuple[Tensor, ...]:
    """Return the tensors of the lists that the second launch writes and the third reads."""
    return (
        Tensor(name="kept_counts", element="int32", shape=("N", lists)),
        Tensor(name="kept_scores", element="float32", shape=("N", lists, length)),
        Tensor(name="kept_rois", element="int32", shape=("N", lists, length)),
        Tensor(name="kept_boxes", element="float32", shape=("N", lists, length, "4")),
    )
