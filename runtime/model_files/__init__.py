"""Which model a file is, read without executing it.

In: ``model.onnx`` or ``*.frcnn``.
Out: manifest, spec, labels, the graph's operators, and the parts of an artifact.
"""
