"""What can be measured: eager, compiled, the naive export and ours.

In: a checkpoint and model files.
Out: candidates that detect in a batch of images.
"""
