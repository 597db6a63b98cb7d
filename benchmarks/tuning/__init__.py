"""Every setting that a model can run with on this machine is tried, and the fastest that agrees is chosen.

In: a model.onnx, an int8 model beside it or none, and images.
Out: a ``frcnn.spec.tuning.Tuning``, and its table.
"""
