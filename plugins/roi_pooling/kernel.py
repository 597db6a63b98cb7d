"""The common part of the RoI pooling kernels: arguments, constants and launch geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NotRequired, TypedDict, get_args

from frcnn.errors import KernelError
from frcnn.plugins.kernel import ELEMENT_BYTES, ELEMENT_NUMBERS, Element, Kernel, Layout, check_choice
from frcnn.plugins.operator import OperatorSpec, Tensor

MAX_LEVELS: Final = 8

_MAX_SHARED_BYTES: Final = 49_152  # of a block, without an attribute of the function
_STAGE_BYTES: Final = 26_624  # for a block's output: five such blocks leave 124 KiB of Hopper's L1 to the maps
_TAP_BYTES: Final = 8  # a cell and its weight
_VECTOR_BYTES: Final = 16  # one load of a lane
_WORD_BYTES: Final = 4  # between the runs of two vectors of channels
_MIN_WARPS: Final = 4
_MAX_WARPS: Final = 5  # Hopper holds nine such blocks at 40 registers: 1,000 RoIs are on 132 multiprocessors at once
_MAX_STAGED_WARPS: Final = 8  # a stage is large, so more warps share it


class PoolingOptions(TypedDict):
    """The operators' common attributes, and the type and layouts: float32 and planar by default.

    The output is channels-last only with channels-last maps. ``channels`` are those of the maps, which are compiled in;
    None: any.
    """

    output_height: int
    output_width: int
    spatial_scales: Sequence[float]
    level_thresholds: Sequence[float]
    element: NotRequired[Element]
    layout: NotRequired[Layout]
    output_layout: NotRequired[Layout]
    channels: NotRequired[int | None]


def pooling_kernel(
    spec: OperatorSpec, *, entry: str, options: PoolingOptions, more: Mapping[str, int] = MappingProxyType({})
) -> Kernel:
    """Return a RoI pooling kernel; its source is ``<entry>/kernel.cu``, and ``more`` are constants of its own.

    A block pools one RoI for CHANNELS_PER_BLOCK channels. Channels-last maps are read and channels-last output is
    written 16 bytes a lane; planar output of channels-last maps is staged in shared memory, so that whole lines of it
    are written too. A fixed number of samples per bin side, ``SAMPLING_RATIO``, is located once a block, in shared
    memory as well. Raises KernelError if no kernel has these values, or they need more than the 48 KiB of shared memory
    of a block.
    """
    element, layout = options.get("element", "float32"), options.get("layout", "planar")
    output_layout = options.get("output_layout", "planar")
    output_height, output_width = options["output_height"], options["output_width"]
    spatial_scales, level_thresholds = options["spatial_scales"], options["level_thresholds"]
    check_choice("element", element, get_args(Element))
    check_choice("layout", layout, get_args(Layout))
    check_choice("output_layout", output_layout, get_args(Layout) if layout == "channels_last" else ("planar",))
    levels = len(spatial_scales)
    _check_attributes(levels, output_height, output_width, spatial_scales, level_thresholds)

    bins = output_height * output_width
    vector = _VECTOR_BYTES // ELEMENT_BYTES[element] if layout == "channels_last" else 1
    channels = options.get("channels")
    _check_channels(channels, vector)
    staged = (layout, output_layout) == ("channels_last", "planar")
    stage_bytes = _stage_bytes(output_height, output_width, more.get("SAMPLING_RATIO", 0), staged=staged)
    per_block = _channels_per_block(bins, vector, stage_bytes, channels)
    most_warps = _MAX_STAGED_WARPS if staged else _MAX_WARPS
    threads = 32 * (_warps(bins, per_block // vector, most_warps) if vector > 1 else most_warps)
    letter = "C" if channels is None else str(channels)
    rois, features = spec.inputs
    maps = tuple(
        Tensor(name=f"{features.name}_{i}", element=element, shape=("N", letter, f"H_{i}", f"W_{i}"))
        for i in range(levels)
    )
    (pooled,) = spec.outputs
    output = Tensor(name=pooled.name, element=element, shape=("N*R", letter, str(output_height), str(output_width)))
    layouts = {tensor.name: layout for tensor in maps} | {output.name: output_layout}
    return Kernel(
        entry=entry,
        plugin=f"{spec.name}{levels}",
        source=f"{entry}/kernel.cu",
        constants={
            "LEVELS": levels,
            "ELEMENT": ELEMENT_NUMBERS[element],
            "CHANNELS_LAST": int(layout == "channels_last"),
            "OUTPUT_CHANNELS_LAST": int(output_layout == "channels_last"),
            "OUTPUT_HEIGHT": output_height,
            "OUTPUT_WIDTH": output_width,
            "SPATIAL_SCALES": tuple(map(float, spatial_scales)),
            "LEVEL_THRESHOLDS": tuple(map(float, level_thresholds)),
            "CHANNELS": channels or 0,
            "CHANNELS_PER_BLOCK": per_block,
            "THREADS": threads,
            **more,
        },
        inputs=(rois, *maps),
        integers=("R", letter, *(f"H_{i}" for i in range(levels)), *(f"W_{i}" for i in range(levels))),
        outputs=(output,),
        grid=("N*R", f"ceil_div({letter}, {per_block})", "1"),
        block=(threads, 1, 1),
        layouts={name: kind for name, kind in layouts.items() if kind != "planar"},
        multiple_of={"C": vector} if vector > 1 and channels is None else {},
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


def _check_channels(channels: int | None, vector: int) -> None:
    if channels is not None and (channels < 1 or channels % vector):
        raise KernelError(
            f"channels must be a positive multiple of {vector}, got {channels}",
            hint="the planar layout takes any number of channels",
        )


def _stage_bytes(height: int, width: int, sampling_ratio: int, *, staged: bool) -> int:
    """Return the shared memory that the taps leave for the output of a block."""
    samples = 2 * sampling_ratio
    stored = samples + -samples % 4 if samples > 2 else samples  # a thread loads up to four cells at once
    bins, taps = height * width, (height + width) * (stored * _TAP_BYTES + _WORD_BYTES) if sampling_ratio else 0
    minimum = taps + (bins * _VECTOR_BYTES + _WORD_BYTES if staged else 0)
    if minimum > _MAX_SHARED_BYTES:
        raise KernelError(
            f"a block has {_MAX_SHARED_BYTES} bytes of shared memory, got output_height {height}, "
            f"output_width {width} and sampling_ratio {sampling_ratio}, which need {minimum}",
            hint="choose a smaller grid or a smaller sampling_ratio",
        )
    return min(_STAGE_BYTES, _MAX_SHARED_BYTES - taps) if staged else _STAGE_BYTES


def _channels_per_block(bins: int, vector: int, stage_bytes: int, channels: int | None) -> int:
    """Return the channels of a block: at most 32 loads of a lane wide, and no more than fit the stage.

    Known ones are spread evenly over the fewest blocks, else a block takes a power of two of loads.
    """
    if vector == 1:
        return 64
    groups = min(32, stage_bytes // (bins * _VECTOR_BYTES + _WORD_BYTES))
    if channels is None:
        return vector << (groups.bit_length() - 1)
    blocks = -(-channels // (vector * groups))
    return vector * -(-channels // (vector * blocks))


def _warps(bins: int, groups: int, maximum: int) -> int:
    """Return how many warps pool so many bins, of so many lanes each, with the fewest idle; the largest of equal."""

    def cost(warps: int) -> int:
        bins_at_once = max(1, 32 * warps // groups)
        return -(-bins // bins_at_once) * warps

    return min(range(maximum, _MIN_WARPS - 1, -1), key=cost)
