"""An ONNX graph becomes an engine artifact ``*.frcnn``.

In: ``model.onnx``, the target, the precision and the optimization profiles.
Out: engines, kernels and a manifest in one file, and the proof of the precision.
"""

__all__ = [
    "artifact",
    "build_gpu",
    "builder",
    "kernels",
    "network",
    "precision_proof",
    "profiles",
    "request",
    "shape_inference",
    "shapes",
    "steps",
    "timing_cache",
]
