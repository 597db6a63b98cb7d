"""Outputs of a network become detections in each image's own pixels.

In: padded outputs of a batch, and how each image was placed.
Out: ``Detections``, annotated images, and JSON.
"""
