"""The forms of the CUDA kernels that are compiled and tested: types, layouts, levels, sampling, channels, counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, get_args

from frcnn.plugins.kernel import Element, Kernel, Layout
from frcnn.plugins.operator_kernels import kernels_for
from frcnn.plugins.preprocess import kernels as preprocess
from frcnn.spec import ResizeRule

ARCHITECTURES: Final = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""One for each generation of GPUs that the project serves."""

_ELEMENTS: Final[tuple[Element, ...]] = ("float16", "bfloat16", "float32")
_LAYOUTS: Final[tuple[tuple[Layout, Layout], ...]] = (
    ("channels_last", "planar"),
    ("channels_last", "channels_last"),
    ("planar", "planar"),
)
_BOXES: Final = {"box_weights": (10.0, 10.0, 5.0, 5.0), "max_log_scale": 4.135, "min_size": 0.001}
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


def every_kernel() -> dict[str, Kernel]:
    """Return label -> kernel; a kernel that reads no features has a label for one type only."""
    forms: dict[str, Kernel] = {}
    for element in _ELEMENTS:
        for rule in get_args(ResizeRule):
            made = preprocess(element=element, image_mean=_MEAN, image_std=_STD, resize=rule)
            (forms[f"preprocess {rule}, {element}"],) = made
        for operator, label, attributes in _operators():
            for kernel in kernels_for(operator, {**attributes, "element": element}):
                if kernel not in forms.values():
                    forms[f"{kernel.entry} {label}, {element}"] = kernel
    return forms


def _operators() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (operator, label, attributes and options)."""
    for levels, per_cell, top_n in ((5, 3, 1000), (1, 15, 2000), (6, 9, 4096), (1, 15, 6144)):
        anchors = [float(number) for i in range(levels) for _ in range(per_cell) for number in (i, -16, -8, 16, 8)]
        counts = {"pre_nms_top_n": top_n, "post_nms_top_n": 1000}
        thresholds = {"iou_threshold": 0.7, "score_threshold": 0.0}
        label = f"{levels} levels, {per_cell} anchors, best {top_n}"
        yield "RegionProposals", label, {**_BOXES, **counts, **thresholds, "anchors": anchors}
    for most in (100, 4096):
        given = {"score_threshold": 0.05, "iou_threshold": 0.5, "max_detections": most}
        yield "BoxDetections", f"{most} detections", {**_BOXES, **given}
    for layout, output_layout in _LAYOUTS:
        for levels, channels in ((4, 256), (1, 512), (5, None)):
            form = {"layout": layout, "output_layout": output_layout, "channels": channels, **_pyramid(levels)}
            label = f"{levels} levels, {channels or 'any'} channels, {layout} to {output_layout}"
            yield "MultiscaleRoIPool", label, form
            for sampling in (2, 0):
                sampled = {"sampling_ratio": sampling, "aligned": 0}
                yield "MultiscaleRoIAlign", f"{label}, sampling {sampling}", {**form, **sampled}


def _pyramid(levels: int) -> dict[str, Any]:
    return {
        "output_height": 7,
        "output_width": 7,
        "spatial_scales": tuple(0.25 / 2**level for level in range(levels)),
        "level_thresholds": tuple(112.0 * 2**level for level in range(max(1, levels - 1))),
    }
