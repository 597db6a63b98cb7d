"""The networks of another trainer's detector; depth, widths, groups and norms are read off the weights' shapes.

In: the shapes of the weights by the names that the modules here have, and the settings that shapes do not tell.
Out: backbone, RPN head, box head and box predictor, without their weights.
"""
