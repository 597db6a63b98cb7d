"""A recipe for int8 is searched for, and accepted only where a gate holds.

In: a float32 ``model.onnx`` and images, annotated where possible.
Out: an int8 ``model.onnx`` and a report, or the report alone where no recipe passes the gate.
"""
