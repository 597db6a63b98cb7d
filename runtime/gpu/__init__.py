"""The whole detector on a GPU: device memory, streams, CUDA graphs, workers.

In: engines and kernels of an artifact, and images in host or device memory.
Out: padded detections of each batch, in host or device memory.
"""
