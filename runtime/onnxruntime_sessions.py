"""What all uses of ONNX Runtime share: options of its CUDA provider, NVIDIA's libraries, errors on one line."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

FATAL_ONLY: Final = 4
"""The severity to log from: errors come as exceptions, and ours are one line."""

CUDA_OPTIONS: Final[Mapping[str, str]] = {
    # float32 is float32: TF32 has 10 bits of mantissa, as many as float16
    "use_tf32": "0",
    # the default, EXHAUSTIVE, times every algorithm for every input shape and may choose another one next time: outputs
    # would differ in their last bits from load to load
    "cudnn_conv_algo_search": "HEURISTIC",
}


def session_options(onnxruntime: ModuleType, threads: int) -> Any:
    """Return the options of a session on a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    return options


def load_cuda_libraries(onnxruntime: ModuleType) -> None:
    """Load the CUDA and cuDNN libraries of NVIDIA's wheels, where the system's loader does not look.

    ONNX Runtime prints, not raises, what it cannot find; whether the provider starts is checked afterwards.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload(directory="")
