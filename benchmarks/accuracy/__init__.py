"""COCO mAP of a model and of eager torchvision.

In: annotated images and detections.
Out: AP per class and size, and images with errors drawn.
"""
