"""The operators as TensorRT plugins, whose kernels the engine carries.

``plugins`` lists them, one for each kernel; ``callbacks`` answers TensorRT from the kernel; ``registration`` registers
them. ``library`` imports TensorRT, ``messages`` explains what it logs. Importing this package imports no TensorRT.
"""

from frcnn.plugins.tensorrt.registration import callback_error, register

__all__ = ["callback_error", "register"]
