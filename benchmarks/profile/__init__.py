"""Where the time of a model goes: by stage and by layer.

In: ``model.onnx`` or ``*.frcnn``, and images.
Out: a profile as a table, JSON and a page.
"""

__all__ = ["engine_profile", "inputs", "onnx_layers", "onnx_profile", "page", "profile", "table"]
