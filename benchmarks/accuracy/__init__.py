"""COCO mAP of a model and of eager torchvision.

In: annotated images and detections.
Out: AP per class and size, and images with errors drawn.
"""

__all__ = [
    "class_map",
    "coco_annotations",
    "drawing",
    "ground_truth",
    "images",
    "report",
    "scoring",
    "voc_annotations",
]
