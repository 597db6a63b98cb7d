"""The runtime: a model file and images in, detections out. Never imports torch.

One stage a module, in the order that data flows:

- ``decode``, ``images``: files, PIL images, arrays and tensors -> RGB
- ``resize``, ``preprocess``: RGB -> what the network sees, equal to torchvision's own preprocessing
- ``onnx_outline``, ``artifact``: which model a file is
- ``loading``, ``backend``, ``canvases``: what executes it, and which sizes it takes
- ``host_backend``, ``onnxruntime_backend``: on arrays of the host
- ``device``, ``engine_program``, ``memory_plan``, ``pipeline``, ``worker``, ``worker_pool``, ``running``,
  ``engine_backend``: engines on a GPU, from one shape bound to many threads
- ``device_images``, ``device_output``: images and answers in device memory
- ``given_images``, ``prefetch``, ``batches``, ``answers``, ``streaming``, ``detector``: many images, in order
- ``detections``: the answer, and its conversions
- ``draw``, ``video``: the answer on the image
"""

import warnings

from frcnn.runtime.detections import Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.images.image import RGBImage

__all__ = ["Detections", "Detector", "RGBImage"]


def __getattr__(name: str) -> type[RGBImage]:
    """Return ``RGBImage`` for ``Picture``, its name in 0.1."""
    if name != "Picture":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("frcnn.runtime.Picture is RGBImage now", DeprecationWarning, stacklevel=2)
    return RGBImage
