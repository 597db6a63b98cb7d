"""Networks on arrays in host memory, run by ONNX Runtime or OpenVINO.

In: ``model.onnx``, a provider, and batches of images.
Out: padded detections of each batch.
"""

__all__ = [
    "backend",
    "network_contract",
    "onnxruntime_backend",
    "onnxruntime_providers",
    "openvino_backend",
    "providers",
]
