"""Candidates are timed in interleaved rounds, with a null pair.

In: candidates and images.
Out: one results document with times, statistics, correctness and the system.
"""
