"""Where the time of a model goes: by stage and by layer.

In: ``model.onnx`` or ``*.frcnn``, and images.
Out: a profile as a table, JSON and a page.
"""
