"""NMS of boxes in PyCUDA's GPUArrays, on a PyCUDA stream, in PyCUDA's own context."""

from __future__ import annotations

import numpy as np
import pycuda.driver as cuda
from pycuda import gpuarray
from scene import clusters

from frcnn.plugins.cuda.launch import load_operator

cuda.init()
context = cuda.Device(0).make_context()
try:
    stream = cuda.Stream()
    boxes, scores = (gpuarray.to_gpu_async(array, stream=stream) for array in clusters())
    kept_scores = gpuarray.empty(scores.shape, np.float32)

    nms = load_operator("GroupedNMS", iou_threshold=0.5)  # for the context that is current
    scratch = gpuarray.empty(nms.scratch_bytes(boxes.shape, scores.shape), np.uint8)
    nms(boxes, scores, out=kept_scores, scratch=scratch, stream=stream)

    found = kept_scores.get_async(stream=stream)
    stream.synchronize()
    print(int((found >= 0).sum()), "boxes kept of", scores.size)
finally:
    context.pop()
    context.detach()
