"""Which model a file is, read without executing it.

In: ``model.onnx`` or ``*.frcnn``.
Out: manifest, spec, labels, and the parts of an artifact.
"""

__all__ = ["artifact", "engine_artifact", "network_facts", "onnx_outline"]
