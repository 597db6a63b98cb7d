"""Preprocessing on CUDA: decoded pictures of any size -> the network's input. A kernel, not a node of the graph."""

from frcnn.plugins.preprocess.kernel import PICTURE_COLUMNS, kernels

__all__ = ["PICTURE_COLUMNS", "kernels"]
