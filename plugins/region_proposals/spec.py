"""Specification of RegionProposals."""

from collections.abc import Sequence

from frcnn.plugins.boxes.spec import BOX_WEIGHTS, IOU_THRESHOLD, MAX_LOG_SCALE, MIN_SIZE
from frcnn.plugins.operator import Attribute, OperatorSpec, Tensor

SPEC = OperatorSpec(
    name="RegionProposals",
    summary=(
        "The best proposals of each image from the RPN head's outputs (arXiv:1506.01497), as torchvision's "
        "RegionProposalNetwork selects them. The candidates of a level are its pre_nms_top_n largest logits, equal "
        "ones by rising index; the index of cell (y, x) and anchor a is (y W + x) A + a, and the anchor is that of the "
        "cell at the origin moved by x and y times the stride of the level, in pixels; without one by x (canvas width "
        "// W) and y (canvas height // H). Candidates are decoded and clipped to their image. One whose logit is NaN "
        "or -inf, whose score (the sigmoid of the logit) is under score_threshold, or whose box has a side under "
        "min_size or NaN is absent. Greedy suppression runs inside each level, in the order of its candidates. The "
        "best of all levels follow by falling score, equal scores by rising level and then in the order of their "
        "level; rows past them are (0, 0, -1, -1). All arithmetic is float32."
    ),
    inputs=(
        Tensor(name="image_sizes", element="int32", shape=("N", "2")),
        Tensor(name="images", element="features", shape=("N", "3", "H", "W")),
        Tensor(name="objectness", element="features", shape=("N", "A", "H", "W"), variadic=True),
        Tensor(name="deltas", element="features", shape=("N", "4*A", "H", "W"), variadic=True),
    ),
    outputs=(Tensor(name="rois", element="float32", shape=("N", "R", "4")),),
    attributes=(
        Attribute(
            name="anchors",
            kind="floats",
            meaning="the anchors of a cell at the origin, rows of level, x1, y1, x2, y2, levels rising from 0",
        ),
        Attribute(
            name="strides",
            kind="floats",
            meaning=(
                "canvas pixels between the cells of each level in both directions, whole numbers, or one for all "
                "levels; where 0, canvas // map, also in nodes without this attribute"
            ),
            default=(0.0,),
        ),
        BOX_WEIGHTS,
        MAX_LOG_SCALE,
        Attribute(name="pre_nms_top_n", kind="int", meaning="candidates of a level, at most"),
        Attribute(
            name="post_nms_top_n",
            kind="int",
            meaning="proposals of an image; R is that, or L * pre_nms_top_n where less",
        ),
        IOU_THRESHOLD,
        Attribute(name="score_threshold", kind="float", meaning="least score of a candidate"),
        MIN_SIZE,
    ),
)


def strides_of_levels(strides: Sequence[float], levels: int) -> tuple[int, ...]:
    """Return the attribute ``strides`` as one whole number for each level."""
    whole = tuple(map(int, strides))
    return whole * levels if len(whole) == 1 else whole
