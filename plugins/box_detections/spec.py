"""Specification of BoxDetections."""

from frcnn.plugins.operator import Attribute, OperatorSpec, Tensor

__all__ = ["SPEC"]

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
        Attribute(name="box_weights", kind="floats", meaning="4 divisors of dx, dy, dw, dh"),
        Attribute(name="max_log_scale", kind="float", meaning="upper limit of dw and dh after the division"),
        Attribute(name="score_threshold", kind="float", meaning="a candidate's score is greater"),
        Attribute(
            name="iou_threshold",
            kind="float",
            meaning="overlap above which a box is suppressed; the float32 that the float32 IoU is compared with",
        ),
        Attribute(name="min_size", kind="float", meaning="least side of a candidate after clipping, in pixels"),
        Attribute(name="max_detections", kind="int", meaning="K, detections of an image"),
    ),
)
