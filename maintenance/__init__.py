"""What only maintainers run: kernel timing, GPU runs, and the pages made from committed results.

In: this repository.
Out: ``benchmarks/results/`` and ``docs/``. It is not in the wheel.
"""

__all__ = [
    "bare_artifact",
    "calibrated",
    "committed",
    "cpu",
    "eager_forms",
    "engine",
    "engine_models",
    "engine_timing",
    "engine_ways",
    "gpu_session",
    "kernel_boxes",
    "kernel_cases",
    "kernel_floors",
    "kernel_forms",
    "kernel_resources",
    "kernel_timing",
    "kernels",
    "noise",
    "performance_page",
    "performance_sections",
    "reliability_sections",
    "stages",
]
