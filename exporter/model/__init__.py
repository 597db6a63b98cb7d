"""The deployable module: torchvision's Faster R-CNN forward, restated with tensors of fixed shape only.

One file a stage, to be read beside torchvision's own: ``rpn.py``, ``roi_heads.py`` and ``detector.py`` (its
``generalized_rcnn.py``). ``boxes.py`` has the box arithmetic and ``operators.py`` the nodes of the domain ``frcnn``.

Letters: N images, H and W canvas size, L levels, A anchors a cell, k candidates a level, R proposals an image,
C classes with the background, K detections an image.
"""

from frcnn.exporter.model.detector import DeployableFasterRCNN

__all__ = ["DeployableFasterRCNN"]
