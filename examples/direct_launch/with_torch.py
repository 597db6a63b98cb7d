"""NMS of boxes in PyTorch tensors, once on a stream and once from a CUDA graph."""

from __future__ import annotations

import torch
from scene import clusters

from frcnn.plugins.cuda.launch import load_operator

boxes, scores = (torch.from_numpy(array).cuda() for array in clusters())
kept_scores = torch.empty_like(scores)

nms = load_operator("GroupedNMS", iou_threshold=0.5)
scratch = torch.empty(nms.scratch_bytes(boxes.shape, scores.shape), dtype=torch.uint8, device="cuda")
nms(boxes, scores, out=kept_scores, scratch=scratch, stream=torch.cuda.current_stream())
print(int((kept_scores >= 0).sum()), "boxes kept of", scores.numel())

graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    nms(boxes, scores, out=kept_scores, scratch=scratch, stream=torch.cuda.current_stream())
scores.mul_(-1)  # a score below 0 is an absent box
graph.replay()
print(int((kept_scores >= 0).sum()), "boxes kept when all are absent")
