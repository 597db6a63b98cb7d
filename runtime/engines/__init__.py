"""TensorRT, TensorRT-RTX and ONNX Runtime: load an engine and run it.

In: the engines of an artifact, and the GPU and libraries at hand.
Out: engines that run on a stream, or the reason why they cannot.
"""
