"""What only maintainers run: kernel timing, GPU runs, and the pages made from committed results.

In: this repository.
Out: ``benchmarks/results/`` and ``docs/``. It is not in the wheel.
"""

__all__ = [
    "bare_detector",
    "bench_models",
    "calibrated",
    "committed",
    "cpu_speeds",
    "eager_forms",
    "gpu_session",
    "gpu_system",
    "int8_models",
    "kernel_cases",
    "kernel_floors",
    "kernel_forms",
    "kernel_inputs",
    "kernel_resources",
    "kernel_timing",
    "kernels",
    "noise",
    "performance_page",
    "pipeline_forms",
    "provider_accuracy",
    "torch_detector",
    "torch_networks",
]
