"""Kernels on a GPU: compile them with NVRTC, load them, and launch them.

In: descriptions of kernels (``frcnn.plugins.kernel``) and their ``.cu`` files.
Out: compiled code for engines, and direct launches on arrays in device memory.

Importing this package imports nothing of CUDA.
"""
