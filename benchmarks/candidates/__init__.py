"""What can be measured: eager, compiled, the naive export and ours.

In: a checkpoint and model files.
Out: candidates that detect in a batch of images.
"""

__all__ = [
    "artifacts",
    "candidate",
    "eager",
    "eager_detector",
    "images",
    "model_files",
    "naive",
    "nncf_int8",
    "registry",
    "runners",
    "time_limit",
]
