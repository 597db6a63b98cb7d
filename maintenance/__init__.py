"""What only maintainers run: kernel timing, GPU runs, and the pages made from committed results.

In: this repository.
Out: ``benchmarks/results/`` and ``docs/``. It is not in the wheel.
"""
