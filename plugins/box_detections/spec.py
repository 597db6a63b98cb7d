"""Specification of BoxDetections."""

from frcnn.plugins.boxes.spec import BOX_WEIGHTS, IOU_THRESHOLD, MAX_LOG_SCALE, MIN_SIZE
from frcnn.plugins.operator import Attribute, OperatorSpec, Tensor

SPEC = OperatorSpec(
    name="BoxDetections",
    summary=(
        "The best detections of each image from the box predictor's outputs, as torchvision's "
        "RoIHeads.postprocess_detections selects them. Scores are the softmax of a row of logits; class 0 is the "
        "background. A pair of a present RoI (x2 >= x1) and another class is a candidate if its score is over "
        "score_threshold and its box, decoded from the RoI and clipped to the image, has sides of at least min_size; "
        "NaN in score or box makes none. Greedy suppression runs inside each class by falling score, equal ones by "
        "rising RoI. The K best of all classes follow by falling score, equal ones by rising RoI and then class; rows "
        "from num_detections on are 0. All arithmetic is float32."
    ),
    inputs=(
        Tensor(name="rois", element="float32", shape=("N", "R", "4")),
        Tensor(name="image_sizes", element="int32", shape=("N", "2")),
        Tensor(name="class_logits", element="features", shape=("N*R", "C")),
        Tensor(name="box_deltas", element="features", shape=("N*R", "4*C")),
    ),
    outputs=(
        Tensor(name="num_detections", element="int32", shape=("N",)),
        Tensor(name="boxes", element="float32", shape=("N", "K", "4")),
        Tensor(name="scores", element="float32", shape=("N", "K")),
        Tensor(name="labels", element="int32", shape=("N", "K")),
    ),
    attributes=(
        BOX_WEIGHTS,
        MAX_LOG_SCALE,
        Attribute(name="score_threshold", kind="float", meaning="a candidate's score is greater"),
        IOU_THRESHOLD,
        MIN_SIZE,
        Attribute(name="max_detections", kind="int", meaning="K, detections of an image"),
    ),
)
