"""A deployable module becomes an ONNX graph, and ONNX graphs are rewritten.

In: a model with its spec, or ``model.onnx``.
Out: ``model.onnx``, and the pieces of it from which engines are built; one pass per module.
"""

__all__ = [
    "bfloat16_fallback",
    "channels_last",
    "cut",
    "cut_flow",
    "cut_types",
    "export",
    "finalize",
    "nodes",
    "source_model",
    "tensorrt_lowering",
]
