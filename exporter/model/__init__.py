"""The deployable module: torchvision's Faster R-CNN with tensors of fixed shape only.

In: a live ``FasterRCNN``.
Out: its ``ModelSpec``, and a module that exports.

There is one file per stage, named as in torchvision: ``rpn.py``, ``roi_heads.py`` and ``detector.py`` (torchvision's
``generalized_rcnn.py``). ``boxes.py`` has the box arithmetic and ``operators.py`` the nodes of the domain ``frcnn``.

Letters: N images, H and W canvas size, L levels, A anchors per cell, k candidates per level, R proposals per image,
C classes including the background, K detections per image.
"""

from frcnn.exporter.model.detector import DeployableFasterRCNN

__all__ = ["DeployableFasterRCNN"]
