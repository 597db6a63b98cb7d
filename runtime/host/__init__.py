"""Networks on arrays in host memory, run by ONNX Runtime.

In: ``model.onnx``, an execution provider, and batches of images.
Out: padded detections of each batch.
"""

__all__ = ["backend", "onnxruntime_backend", "onnxruntime_providers"]
