"""Box arithmetic and suppression: the common part of RegionProposals and BoxDetections.

In: deltas, anchors or proposals, scores.
Out: decoded and clipped boxes, and which of them suppression keeps, in PyTorch, ONNX and CUDA.
"""
