"""The runtime: a model file and images in, detections out. Never imports torch.

Data flows through the rooms in this order:

- ``model_files`` reads the manifest of a file; ``loading`` chooses the ``backend`` that executes it
- ``images`` decodes what callers hand in, resizes, normalises and pads it onto a canvas, by torchvision's rules
- ``streaming`` reads ahead, batches images that share a canvas, and keeps their order
- ``host`` runs networks in host memory (ONNX Runtime); ``gpu`` runs the whole detector on a GPU, with ``engines`` of
  TensorRT or TensorRT-RTX
- ``results`` scales boxes back to the original images, draws them and writes JSON; ``formats`` are those of other tools
- ``doctor`` checks what this system can run; ``commands`` are the verbs of ``frcnn``
"""

import warnings

from frcnn.runtime.detections import Detection, Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.slices import Slicing
from frcnn.runtime.results.draw import annotate
from frcnn.runtime.streaming.live import frames

__all__ = ["Detection", "Detections", "Detector", "RGBImage", "Slicing", "annotate", "frames"]


def __getattr__(name: str) -> type[RGBImage]:
    """Return ``RGBImage`` for ``Picture``, its name in 0.1."""
    if name != "Picture":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("frcnn.runtime.Picture is RGBImage now", DeprecationWarning, stacklevel=2)
    return RGBImage
