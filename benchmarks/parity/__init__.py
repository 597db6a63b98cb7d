"""Detections of two models are compared, one by one.

In: detections of a model and of eager torchvision.
Out: matched pairs, their differences, and whether they are within limits.
"""
