"""The whole detector on a GPU: device memory, streams, CUDA graphs, workers.

In: engines and kernels of an artifact, and images in host or device memory.
Out: padded detections of each batch, in host or device memory.
"""

__all__ = [
    "backend",
    "cuda_calls",
    "cuda_device",
    "device",
    "memory_plan",
    "pipeline",
    "program",
    "worker",
    "worker_pool",
]
