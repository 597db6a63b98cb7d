"""The common part of RoIAlign and RoI max pooling over several feature levels.

In: attributes of an operator, RoIs, and the scales of its levels.
Out: their inputs and shapes, the level of each RoI, and their kernels.
"""
