"""The forms of the CUDA kernels that are compiled, tested and measured: types, layouts, levels, sampling."""

from __future__ import annotations

from typing import Any, Final

from frcnn.plugins.grouped_nms.kernel import kernels as grouped_nms
from frcnn.plugins.kernel import Element, Kernel, Layout
from frcnn.plugins.multiscale_roi_align.kernel import kernels as multiscale_roi_align
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as multiscale_roi_pool
from frcnn.plugins.preprocess import kernels as preprocess

__all__ = ["ARCHITECTURES", "every_kernel"]

ARCHITECTURES: Final = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""One for each generation of GPUs that the project serves."""

_ELEMENTS: Final[tuple[Element, ...]] = ("float16", "bfloat16", "float32")
_LAYOUTS: Final[tuple[tuple[Layout, Layout], ...]] = (
    ("channels_last", "planar"),
    ("channels_last", "channels_last"),
    ("planar", "planar"),
)
_THRESHOLDS: Final = (112.0, 224.0, 448.0, 896.0)


def every_kernel() -> dict[str, Kernel]:
    """Return label -> kernel."""
    normalisation = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
    forms = {f"{kernel.entry}": kernel for kernel in grouped_nms(iou_threshold=0.5)}
    for element in _ELEMENTS:
        (forms[f"preprocess {element}"],) = preprocess(element=element, **normalisation)
        for layout, output_layout in _LAYOUTS:
            for levels in (4, 1, 5):
                chosen: dict[str, Any] = {"element": element, "layout": layout, "output_layout": output_layout}
                chosen |= _pyramid(levels)
                label = f"{levels} levels, {element}, {layout} to {output_layout}"
                (forms[f"multiscale_roi_pool {label}"],) = multiscale_roi_pool(**chosen)
                for sampling in (2, 0):
                    (forms[f"multiscale_roi_align {label}, sampling {sampling}"],) = multiscale_roi_align(
                        **chosen, sampling_ratio=sampling, aligned=0
                    )
    return forms


def _pyramid(levels: int) -> dict[str, Any]:
    return {
        "output_height": 7,
        "output_width": 7,
        "spatial_scales": tuple(0.25 / 2**level for level in range(levels)),
        "level_thresholds": _THRESHOLDS[: max(1, levels - 1)],
    }
