"""Checkpoints of other trainers, Detectron2 and MMDetection, become torchvision models of the same arithmetic.

In: weights by the trainer's names, and its configuration where there is one.
Out: a ``FasterRCNN`` whose transform, anchors, pooling and limits are the trainer's, and what was read and assumed.
"""
