"""Preprocessing on CUDA: decoded images of any size -> the network's input. A kernel, not a node of the graph."""

from frcnn.plugins.preprocess.kernel import IMAGE_COLUMNS, kernels, kernels_of_transform

__all__ = ["IMAGE_COLUMNS", "kernels", "kernels_of_transform"]
