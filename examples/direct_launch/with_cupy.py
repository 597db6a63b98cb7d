"""NMS of boxes in CuPy arrays, on a CuPy stream."""

from __future__ import annotations

import cupy
from scene import clusters

from frcnn.plugins.cuda.launch import load_operator

with cupy.cuda.Stream(non_blocking=True) as stream:
    boxes, scores = (cupy.asarray(array) for array in clusters())
    kept_scores = cupy.empty_like(scores)

    nms = load_operator("GroupedNMS", iou_threshold=0.5)
    scratch = cupy.empty(nms.scratch_bytes(boxes.shape, scores.shape), cupy.uint8)
    nms(boxes, scores, out=kept_scores, scratch=scratch, stream=stream)
    print(int((kept_scores >= 0).sum()), "boxes kept of", scores.size)
