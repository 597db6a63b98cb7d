"""RoIAlign and BoxDetections on CuPy arrays, on a CuPy stream."""

from __future__ import annotations

import cupy
from scene import ALIGN, DETECT, make_scene

from frcnn.plugins.cuda.launch import load_operator

scene = make_scene()
with cupy.cuda.Stream(non_blocking=True) as stream:
    rois, image_sizes, logits, deltas = (
        cupy.asarray(array) for array in (scene.rois, scene.image_sizes, scene.class_logits, scene.box_deltas)
    )
    maps = [cupy.asarray(array) for array in scene.maps]

    align = load_operator("MultiscaleRoIAlign", **ALIGN)
    (shape,) = align.output_shapes(rois.shape, *(level.shape for level in maps))
    pooled = cupy.empty(shape, cupy.float32)
    align(rois, *maps, out=pooled, stream=stream)

    # your box head would make logits and deltas of the pooled features here
    detect = load_operator("BoxDetections", **DETECT)
    inputs = (rois, image_sizes, logits, deltas)
    shapes = [array.shape for array in inputs]
    found = [
        cupy.empty(shape, tensor.element)
        for tensor, shape in zip(detect.outputs, detect.output_shapes(*shapes), strict=True)
    ]
    scratch = cupy.empty(detect.scratch_bytes(*shapes), cupy.uint8)
    detect(*inputs, out=found, scratch=scratch, stream=stream)
    print(f"pooled {pooled.shape}, {int(found[0].sum())} detections")
