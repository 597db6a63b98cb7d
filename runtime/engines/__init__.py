"""TensorRT, TensorRT-RTX and ONNX Runtime: load an engine and run it.

In: the engines of an artifact, and the GPU and libraries at hand.
Out: engines that run on a stream, or the reason why they cannot.
"""

__all__ = [
    "compatibility",
    "onnxruntime_engine",
    "runtime_cache",
    "tensorrt_choice",
    "tensorrt_engine",
    "tensorrt_log",
    "tensorrt_tensors",
]
