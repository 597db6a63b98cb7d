"""A deployable module becomes an ONNX graph, and ONNX graphs are rewritten.

In: a model with its spec, or ``model.onnx``.
Out: ``model.onnx``, and the networks in it from which engines are built; one pass per module.
"""
