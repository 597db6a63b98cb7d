"""The runtime: a model file and pictures in, detections out. Never imports torch.

One stage a module, in the order that data flows:

- ``decode``, ``pictures``: files, PIL images, arrays and tensors -> RGB
- ``resize``, ``preprocess``: RGB -> what the network sees, equal to torchvision's own preprocessing
- ``onnx_outline``, ``artifact``: which model a file is
- ``backend``, ``onnxruntime_backend``: what executes it
- ``batches``, ``prefetch``, ``detector``: many pictures, in order
- ``detections``: the answer, and its conversions
- ``draw``, ``video``: the answer on the picture
"""

from frcnn.runtime.detections import Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.pictures import Picture

__all__ = ["Detections", "Detector", "Picture"]
