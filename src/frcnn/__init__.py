"""frcnn: make a trained torchvision Faster R-CNN fast and deployable.

The rooms (see ``docs/architecture.md``):

- ``frcnn.exporter``: checkpoint -> deployable module -> ONNX -> artifact for a GPU (needs torch)
- ``frcnn.runtime``: artifact -> detections (never imports torch)
- ``frcnn.plugins``: the custom operators, one folder each
- ``frcnn.benchmarks``: parity, speed and accuracy against eager
"""

import os

from frcnn._version import __version__

# From the moment it is imported, ONNX Runtime (1.29 and later) tells its maker over the internet what is run with it,
# unless this is set before. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__"]
