"""The operators as TensorRT plugins, whose kernels the engine carries.

``plugins`` lists the plugins, for the registration here and the exporter's lowering pass; ``registration`` registers
them with TensorRT. Importing this package imports no TensorRT.
"""

from frcnn.plugins.tensorrt.registration import callback_error, register

__all__ = ["callback_error", "register"]
