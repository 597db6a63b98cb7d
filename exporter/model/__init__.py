"""The deployable module: torchvision's Faster R-CNN as two plain networks and the three operators between them.

In: a live ``FasterRCNN``.
Out: its ``ModelSpec``, the two networks, which export, and the operators with their attributes.

``networks.py`` has the networks, ``stages.py`` the operators and ``detector.py`` all of them in a row, after
torchvision's ``generalized_rcnn.py``.

Letters: N images, H and W canvas size, L levels, A anchors per cell, R proposals per image, C classes including the
background.
"""

from frcnn.exporter.model.detector import DeployableFasterRCNN

__all__ = ["DeployableFasterRCNN"]
