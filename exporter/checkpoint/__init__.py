"""A checkpoint becomes a live torchvision model with its weights.

In: a ``.pth`` or ``.safetensors`` file, published weights, or a function that builds the model.
Out: the model and its ``ModelSpec``. No code from a file is run unless requested.
"""
