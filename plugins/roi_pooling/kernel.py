"""What the CUDA kernels of the two RoI pooling operators share: arguments, constants and launch geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, get_args

from frcnn.errors import KernelError
from frcnn.plugins.kernel import ELEMENT_BYTES, Constant, Element, Kernel, Layout, check_choice
from frcnn.plugins.operator import OperatorSpec, Tensor

__all__ = ["MAX_LEVELS", "pooling_kernel"]

MAX_LEVELS: Final = 8

_MAX_SHARED_BYTES: Final = 49_152  # that a block may take without asking the driver for more
# Of these, for the output of a block: a multiprocessor of Hopper has room for 8 such blocks, its registers for 3 to 6.
_STAGE_BYTES: Final = 26_624
_TAP_BYTES: Final = 16  # of shared memory for a row or column of samples: two cells and their weights
_VECTOR_BYTES: Final = 16  # one load of a lane
_WORD_BYTES: Final = 4  # between the runs of two vectors of channels
_MAX_WARPS: Final = 8
_ELEMENTS: Final = {"float32": 0, "float16": 1, "bfloat16": 2}


def pooling_kernel(
    spec: OperatorSpec,
    *,
    entry: str,
    source: str,
    extra_constants: Mapping[str, Constant],
    element: Element,
    layout: Layout,
    output_layout: Layout,
    output_height: int,
    output_width: int,
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
    sampling_ratio: int = 0,
) -> Kernel:
    """Return a RoI pooling kernel.

    A block pools one RoI for CHANNELS_PER_BLOCK channels. Channels-last maps are read 16 bytes a lane and the result
    is staged in shared memory, so that planar output is written in whole lines too. A fixed number of samples a bin is
    located once a block, in shared memory as well.

    Args:
        spec: the operator.
        entry: the kernel's name.
        source: its file.
        extra_constants: constants of this operator alone.
        element: type of the maps and of the output.
        layout: how the maps lie in memory.
        output_layout: how the output lies in memory; channels-last only with channels-last maps.
        output_height: the operator's attribute, like those that follow.
        output_width: see the operator.
        spatial_scales: see the operator; their number is the number of levels.
        level_thresholds: see the operator.
        sampling_ratio: samples per bin side, where the operator has a fixed number of them; 0 elsewhere.

    Raises:
        KernelError: a value that the kernel cannot be made for, or a grid and a sampling ratio that together take more
            than the 48 KiB of shared memory of a block.
    """
    check_choice("element", element, get_args(Element))
    check_choice("layout", layout, get_args(Layout))
    check_choice("output_layout", output_layout, get_args(Layout) if layout == "channels_last" else ("planar",))
    levels = len(spatial_scales)
    _check_attributes(levels, output_height, output_width, spatial_scales, level_thresholds)

    bins = output_height * output_width
    vector = _VECTOR_BYTES // ELEMENT_BYTES[element] if layout == "channels_last" else 1
    staged = (layout, output_layout) == ("channels_last", "planar")
    stage_bytes = _stage_bytes(output_height, output_width, sampling_ratio, staged=staged)
    channels = _channels_per_block(bins, vector, stage_bytes)
    threads = 32 * _warps(bins * channels // vector)
    rois, features = spec.inputs
    maps = tuple(
        Tensor(name=f"{features.name}_{i}", element=element, shape=("N", "C", f"H_{i}", f"W_{i}"))
        for i in range(levels)
    )
    (pooled,) = spec.outputs
    output = Tensor(name=pooled.name, element=element, shape=("N*R", "C", str(output_height), str(output_width)))
    layouts = {tensor.name: layout for tensor in maps} | {output.name: output_layout}
    return Kernel(
        entry=entry,
        plugin=f"{spec.name}{levels}",
        source=source,
        constants={
            "LEVELS": levels,
            "ELEMENT": _ELEMENTS[element],
            "CHANNELS_LAST": int(layout == "channels_last"),
            "OUTPUT_CHANNELS_LAST": int(output_layout == "channels_last"),
            "OUTPUT_HEIGHT": output_height,
            "OUTPUT_WIDTH": output_width,
            "SPATIAL_SCALES": tuple(map(float, spatial_scales)),
            "LEVEL_THRESHOLDS": tuple(map(float, level_thresholds)),
            "CHANNELS_PER_BLOCK": channels,
            "THREADS": threads,
            **extra_constants,
        },
        inputs=(rois, *maps),
        integers=("R", "C", *(f"H_{i}" for i in range(levels)), *(f"W_{i}" for i in range(levels))),
        outputs=(output,),
        grid=("N*R", f"ceil_div(C, {channels})", "1"),
        block=(threads, 1, 1),
        layouts={name: kind for name, kind in layouts.items() if kind != "planar"},
        multiple_of={"C": vector} if vector > 1 else {},
    )


def _check_attributes(
    levels: int, height: int, width: int, scales: Sequence[float], thresholds: Sequence[float]
) -> None:
    if not 1 <= levels <= MAX_LEVELS:
        raise KernelError(f"spatial_scales must have 1 to {MAX_LEVELS} values, one per feature level, got {levels}")
    if len(thresholds) != max(1, levels - 1):
        raise KernelError(
            f"level_thresholds must have {max(1, levels - 1)} values for {levels} levels, got {len(thresholds)}"
        )
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise KernelError(f"spatial_scales must be positive, got {tuple(scales)}")
    if not all(math.isfinite(t) and t >= 0 for t in thresholds) or list(thresholds) != sorted(thresholds):
        raise KernelError(f"level_thresholds must be rising numbers of at least 0, got {tuple(thresholds)}")
    maximum = (_STAGE_BYTES - _WORD_BYTES) // _VECTOR_BYTES
    if height < 1 or width < 1 or height * width > maximum:
        raise KernelError(f"output_height x output_width must be 1 to {maximum} cells, got {height} x {width}")


def _stage_bytes(height: int, width: int, sampling_ratio: int, *, staged: bool) -> int:
    """Return the shared memory for the output of a block: what the samples leave of it."""
    bins, taps = height * width, (height + width) * sampling_ratio * _TAP_BYTES
    minimum = taps + (bins * _VECTOR_BYTES + _WORD_BYTES if staged else 0)
    if minimum > _MAX_SHARED_BYTES:
        raise KernelError(
            f"a block has {_MAX_SHARED_BYTES} bytes of shared memory, got output_height {height}, "
            f"output_width {width} and sampling_ratio {sampling_ratio}, which need {minimum}",
            hint="choose a smaller grid or a smaller sampling_ratio",
        )
    return min(_STAGE_BYTES, _MAX_SHARED_BYTES - taps) if staged else _STAGE_BYTES


def _channels_per_block(bins: int, vector: int, stage_bytes: int) -> int:
    """Return the most channels, at most 32 loads of a lane wide, whose pooled cells fit the stage."""
    if vector == 1:
        return 64
    groups = stage_bytes // (bins * _VECTOR_BYTES + _WORD_BYTES)
    fitting = 1 << (min(32, groups).bit_length() - 1)
    return fitting * vector


def _warps(items: int) -> int:
    """Return how many warps, 4 to 8, leave the fewest lanes idle; the most of them where it makes no difference."""
    return min(range(_MAX_WARPS, 3, -1), key=lambda warps: -(-items // (32 * warps)) * warps)
