"""RoIAlign and BoxDetections on PyTorch tensors, once on a stream and once from a CUDA graph."""

from __future__ import annotations

import torch
from scene import ALIGN, DETECT, make_scene

from frcnn.plugins.cuda.launch import load_operator

scene = make_scene()
rois, image_sizes, logits, deltas = (
    torch.from_numpy(array).cuda() for array in (scene.rois, scene.image_sizes, scene.class_logits, scene.box_deltas)
)
# channels-last maps in half precision: what convolutions on tensor cores write, and what pooling reads fastest
maps = [torch.from_numpy(array).cuda().half().contiguous(memory_format=torch.channels_last) for array in scene.maps]

align = load_operator(
    "MultiscaleRoIAlign", **ALIGN, element="float16", layout="channels_last", channels=maps[0].shape[1]
)
(shape,) = align.output_shapes(rois.shape, *(level.shape for level in maps))
pooled = torch.empty(shape, dtype=torch.float16, device="cuda")

detect = load_operator("BoxDetections", **DETECT)
inputs = (rois, image_sizes, logits, deltas)
shapes = [array.shape for array in inputs]
found = [
    torch.empty(shape, dtype=getattr(torch, tensor.element), device="cuda")
    for tensor, shape in zip(detect.outputs, detect.output_shapes(*shapes), strict=True)
]
scratch = torch.empty(detect.scratch_bytes(*shapes), dtype=torch.uint8, device="cuda")


def launch() -> None:
    """Launch both operators on PyTorch's current stream; your box head would run between them."""
    stream = torch.cuda.current_stream()
    align(rois, *maps, out=pooled, stream=stream)
    detect(*inputs, out=found, scratch=scratch, stream=stream)


launch()
print(f"pooled {tuple(pooled.shape)}, {int(found[0].sum())} detections")

graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    launch()
rois[..., 2:] = -1  # x2 < x1: an absent RoI
graph.replay()
print(f"{int(found[0].sum())} detections when all RoIs are absent")
