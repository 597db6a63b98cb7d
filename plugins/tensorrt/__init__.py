"""The operators as TensorRT plugins whose kernels are carried by the engine.

``plugins`` says which plugins there are, for the registration here and for the exporter's lowering pass alike;
``registration`` hands them to TensorRT. Importing this package imports no TensorRT.
"""

from frcnn.plugins.tensorrt.registration import callback_error, register

__all__ = ["callback_error", "register"]
