"""TensorRT and TensorRT-RTX: load an engine and run it.

In: the engines of an artifact, and the GPU and libraries at hand.
Out: engines that run on a stream, or the reason why they cannot.
"""

__all__ = ["compatibility", "runtime_cache", "tensorrt_engine", "tensorrt_log"]
