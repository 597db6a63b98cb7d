"""An ONNX graph becomes an engine artifact ``*.frcnn``.

In: ``model.onnx``, the target, the precision and the optimization profiles.
Out: engines, kernels and a manifest in one file, and the proof of the precision.
"""
