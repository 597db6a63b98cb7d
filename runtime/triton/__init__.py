"""A model repository for NVIDIA's Triton Inference Server, and what runs inside it.

In: a model file; in the server, bytes of image files.
Out: folders that ``tritonserver`` takes as they are; detections in pixels of the original images.
"""
