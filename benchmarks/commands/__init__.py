"""The verbs of the ``frcnn`` command that belong to the benchmarks.

In: parsed arguments.
Out: files, text on standard output, and an exit code.
"""
