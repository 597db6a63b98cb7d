"""RoIAlign and BoxDetections on PyCUDA's GPUArrays, on a PyCUDA stream, in PyCUDA's own context."""

from __future__ import annotations

import numpy as np
import pycuda.driver as cuda
from pycuda import gpuarray
from scene import ALIGN, DETECT, make_scene

from frcnn.plugins.cuda.launch import load_operator

scene = make_scene()
cuda.init()
context = cuda.Device(0).make_context()
try:
    stream = cuda.Stream()
    rois, image_sizes, logits, deltas = (
        gpuarray.to_gpu_async(array, stream=stream)
        for array in (scene.rois, scene.image_sizes, scene.class_logits, scene.box_deltas)
    )
    maps = [gpuarray.to_gpu_async(array, stream=stream) for array in scene.maps]

    align = load_operator("MultiscaleRoIAlign", **ALIGN)  # for the context that is current
    (shape,) = align.output_shapes(rois.shape, *(level.shape for level in maps))
    pooled = gpuarray.empty(shape, np.float32)
    align(rois, *maps, out=pooled, stream=stream)

    # your box head would make logits and deltas of the pooled features here
    detect = load_operator("BoxDetections", **DETECT)
    inputs = (rois, image_sizes, logits, deltas)
    shapes = [array.shape for array in inputs]
    found = [
        gpuarray.empty(shape, np.dtype(tensor.element))
        for tensor, shape in zip(detect.outputs, detect.output_shapes(*shapes), strict=True)
    ]
    scratch = gpuarray.empty(detect.scratch_bytes(*shapes), np.uint8)
    detect(*inputs, out=found, scratch=scratch, stream=stream)

    num_detections = found[0].get_async(stream=stream)
    stream.synchronize()
    print(f"pooled {pooled.shape}, {int(num_detections.sum())} detections")
finally:
    context.pop()
    context.detach()
