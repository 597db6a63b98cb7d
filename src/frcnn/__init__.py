"""frcnn: make a trained torchvision Faster R-CNN fast and deployable.

The rooms (see ``docs/architecture.md``):

- ``frcnn.exporter``: checkpoint -> deployable module -> ONNX -> TensorRT artifact (needs torch)
- ``frcnn.runtime``: artifact -> detections (never imports torch)
- ``frcnn.plugins``: the custom operators, one folder each
- ``frcnn.benchmarks``: parity, speed and accuracy against eager
"""

from frcnn._version import __version__

__all__ = ["__version__"]
