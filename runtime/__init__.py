"""The runtime: a model file and pictures in, detections out. Never imports torch.

One stage a module, in the order that data flows:

- ``decode``, ``pictures``: files, PIL images, arrays and tensors -> RGB
- ``resize``, ``preprocess``: RGB -> what the network sees, equal to torchvision's own preprocessing
- ``onnx_outline``, ``artifact``: which model a file is
- ``loading``, ``backend``, ``canvases``: what executes it, and which sizes it takes
- ``host_backend``, ``onnxruntime_backend``: on arrays of the host
- ``device``, ``engine_program``, ``memory_plan``, ``pipeline``, ``worker``, ``worker_pool``, ``running``,
  ``engine_backend``: engines on a GPU, from one shape bound to many threads
- ``device_pictures``, ``device_output``: pictures and answers in device memory
- ``given_pictures``, ``prefetch``, ``batches``, ``answers``, ``streaming``, ``detector``: many pictures, in order
- ``detections``: the answer, and its conversions
- ``draw``, ``video``: the answer on the picture
"""

from frcnn.runtime.detections import Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.images.image import Picture

__all__ = ["Detections", "Detector", "Picture"]
