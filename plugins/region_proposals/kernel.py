"""RegionProposals on CUDA: five launches.

1. ``select``: a block for each chunk of a level's logits keeps the chunk's largest.
2. ``rank``: a block for each level of an image selects the best of its chunks, sorts and decodes them.
3. ``overlaps``: who overlaps whom, as bits.
4. ``resolve``: a block for each level of an image keeps what no kept box overlaps.
5. ``merge``: the best kept boxes of all levels.

Between them lie, for each image: the chunks' logits and indices, ``boxes (L, K, 4)``, ``scores (L, K)`` (-1 where
absent), ``overlaps``, and the kept boxes, scores and counts. K is ``pre_nms_top_n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Unpack, get_args

from frcnn.errors import KernelError
from frcnn.plugins.boxes.kernel import LARGEST, BoxOptions, box_constants
from frcnn.plugins.kernel import ELEMENT_NUMBERS, Constant, Element, Kernel, check_choice
from frcnn.plugins.operator import ElementType, Tensor
from frcnn.plugins.region_proposals.spec import strides_of_levels

MAX_CANDIDATES: Final = 6144
"""Most candidates of a level: the 32 warps of a block decide six tiles of 32 each, whose words fill their registers."""

MAX_LEVELS: Final = 8

CHUNK: Final = 16_384
"""Logits of a block of the first launch."""

_MAX_ANCHORS: Final = 1024
_MAX_STRIDE: Final = 1024
_MAX_PROPOSALS: Final = 2**31 - 1
_SELECT_THREADS: Final = 512
_RANK_THREADS: Final = 512
_PAIRS_PER_BLOCK: Final = 4  # pairs of tiles of 32 boxes, a warp each
_MERGE_THREADS: Final = 128


def kernels(
    *,
    element: Element = "float32",
    anchors: Sequence[float],
    strides: Sequence[float],
    pre_nms_top_n: int,
    post_nms_top_n: int,
    **options: Unpack[BoxOptions],
) -> tuple[Kernel, ...]:
    """Return the five kernels for logits and deltas of a type; raise KernelError for values that none has."""
    check_choice("element", element, get_args(Element))
    per_cell = _anchors_per_cell(anchors)
    of_boxes = box_constants(
        options, pre_nms_top_n=(pre_nms_top_n, MAX_CANDIDATES), post_nms_top_n=(post_nms_top_n, _MAX_PROPOSALS)
    )
    iou_threshold = of_boxes.pop("IOU_THRESHOLD")

    levels, top = len(per_cell), int(pre_nms_top_n)
    if len(strides) not in (1, levels) or any(value not in range(_MAX_STRIDE + 1) for value in strides):
        raise KernelError(
            f"strides must be whole numbers from 0 to {_MAX_STRIDE}, 1 or {levels} of them, got {tuple(strides)}"
        )
    count = min(int(post_nms_top_n), levels * top)
    tiles = -(-top // 32)
    tiles_of_warp = next(most for most in (2, 4, 6) if tiles <= 32 * most)  # of 32 warps at most
    slots = min(CHUNK, top + top // 8 + 8)  # a little room, so that a search may end early
    candidates: dict[str, Constant] = {"CANDIDATES": top}
    chosen: dict[str, Constant] = candidates | {
        "LEVELS": levels,
        "ANCHORS_PER_CELL": tuple(per_cell),
        "CHUNK": CHUNK,
        "SLOTS": slots,
    }
    decoded: dict[str, Constant] = {
        "SORTED": max(64, 1 << (top - 1).bit_length()),
        "ANCHOR_STRIDES": strides_of_levels(strides, levels),
        "ANCHORS": tuple(float(value) for i, value in enumerate(anchors) if i % 5),
        **of_boxes,
    }

    def tensor(name: str, *shape: object, kind: ElementType = "float32") -> Tensor:
        return Tensor(name=name, element=kind, shape=tuple(map(str, shape)))

    def maps(name: str, channels: int) -> tuple[Tensor, ...]:
        per_level = enumerate(per_cell)
        return tuple(tensor(f"{name}_{i}", "N", channels * a, f"H_{i}", f"W_{i}", kind=element) for i, a in per_level)

    def kernel(
        stage: str,
        constants: dict[str, Constant],
        threads: int,
        grid: tuple[str, str],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        integers: tuple[str, ...] = (),
        *,
        of_levels: bool = False,
    ) -> Kernel:
        return Kernel(
            entry=f"region_proposals_{stage}",
            plugin=f"RegionProposals{stage.capitalize()}{levels if of_levels else ''}",
            source=f"region_proposals/{stage}.cu",
            constants=constants | {"ELEMENT": ELEMENT_NUMBERS[element if of_levels else "float32"], "THREADS": threads},
            inputs=inputs,
            integers=integers,
            outputs=outputs,
            grid=(*grid, "1"),
            block=(threads, 1, 1),
        )

    chunks = " + ".join(f"ceil_div({a}*H_{i}*W_{i}, {CHUNK})" for i, a in enumerate(per_cell))
    written = tuple(tensor(name, "N", chunks, slots, kind="int32") for name in ("logits", "indices"))
    read = tuple(tensor(name, "N", "P", slots, kind="int32") for name in ("logits", "indices"))
    sizes = tensor("image_sizes", "N", 2, kind="int32"), tensor("images", "N", 3, "H", "W", kind=element)
    boxes, scores = tensor("candidate_boxes", "N", levels, top, 4), tensor("candidate_scores", "N", levels, top)
    overlaps = tensor("overlaps", "N", levels, 16 * tiles * (tiles + 1), kind="int32")
    kept = (
        tensor("kept_boxes", "N", levels, top, 4),
        tensor("kept_scores", "N", levels, top),
        tensor("kept_counts", "N", levels, kind="int32"),
    )
    rows = tuple(f"H_{i}" for i in range(levels))
    columns = tuple(f"W_{i}" for i in range(levels))
    cells = tuple(f"H_{i}*W_{i}" for i in range(levels))
    pair_blocks = -(-tiles * (tiles + 1) // (2 * _PAIRS_PER_BLOCK))
    return (
        kernel("select", chosen, _SELECT_THREADS, (chunks, "N"), maps("objectness", 1), written, cells, of_levels=True),
        kernel(
            "rank",
            chosen | decoded,
            _RANK_THREADS,
            (str(levels), "N"),
            (*sizes, *maps("deltas", 4), *read),
            (boxes, scores),
            ("H", "W", *rows, *columns),
            of_levels=True,
        ),
        kernel(
            "overlaps",
            candidates | {"IOU_THRESHOLD": iou_threshold},
            32 * _PAIRS_PER_BLOCK,
            (str(pair_blocks), f"N*{levels}"),
            (boxes,),
            (overlaps,),
        ),
        kernel(
            "resolve",
            candidates | {"TILES_OF_WARP": tiles_of_warp},
            32 * -(-tiles // tiles_of_warp),
            (f"N*{levels}", "1"),
            (boxes, scores, overlaps),
            kept,
        ),
        kernel(
            "merge",
            candidates | {"LEVELS": levels, "PROPOSALS": count},
            _MERGE_THREADS,
            (str(-(-levels * top // _MERGE_THREADS)), "N"),
            kept,
            (tensor("rois", "N", count, 4),),
        ),
    )


def _anchors_per_cell(anchors: Sequence[float]) -> list[int]:
    rows, rest = divmod(len(anchors), 5)
    if rest or not 1 <= rows <= _MAX_ANCHORS:
        raise KernelError(
            f"anchors must be 1 to {_MAX_ANCHORS} rows of level, x1, y1, x2, y2, got {len(anchors)} numbers"
        )
    if not all(abs(value) <= LARGEST for value in anchors):
        raise KernelError("anchors must be finite numbers")
    of_rows = [float(level) for level in anchors[::5]]
    levels = len(set(of_rows))
    if of_rows != sorted(of_rows) or set(of_rows) != set(range(levels)) or levels > MAX_LEVELS:
        raise KernelError(f"the levels of anchors must rise from 0 without a gap, {MAX_LEVELS} at most, got {of_rows}")
    return [of_rows.count(level) for level in range(levels)]
