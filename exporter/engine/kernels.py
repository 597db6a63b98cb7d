"""Compile the kernels of an artifact: those of its operator steps, and the one that preprocesses images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frcnn.errors import KernelError, UsageError
from frcnn.exporter.engine.steps import Steps, kernels_of_step
from frcnn.plugins.cuda.compiler import (
    OLDEST_PTX,
    compile_kernels,
    compiler_version,
    fingerprint,
    supported_architectures,
)
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.spec import TransformSpec
from frcnn.spec.engine import kernel_part
from frcnn.spec.supported_gpus import RTX_DEFAULT, architecture_of

__all__ = ["check_architectures", "kernel_parts", "needed_kernels"]


def check_architectures(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the architectures to compile for.

    Args:
        wanted: ``sm_NN`` names. Default: the default GPUs of TensorRT-RTX, as far as the compiler supports them.

    Raises:
        UsageError: the compiler does not support one of them.
        MissingDependencyError: there is no compiler.
    """
    known = supported_architectures()
    if wanted is None:
        return tuple(name for name in map(architecture_of, RTX_DEFAULT) if name in known)
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"kernel architecture: expected some of {', '.join(known)}, got {name!r}",
                hint=f"{OLDEST_PTX} is always added, which serves newer GPUs",
            )
    return tuple(dict.fromkeys(wanted))


def needed_kernels(steps: Steps, transform: TransformSpec) -> tuple[Kernel, ...]:
    """Return the kernels that the steps and the preprocessing launch, without repeats.

    Raises:
        KernelError: there is no kernel for the attributes and tensors of an operator.
    """
    images = steps.tensors["images"].element
    if images not in ("float32", "float16", "bfloat16"):
        raise KernelError(f"images must be float32, float16 or bfloat16, got {images}")
    mean, std = transform.image_mean, transform.image_std
    found = list(preprocess_kernels(element=images, image_mean=mean, image_std=std))
    for operator in steps.operators:
        found.extend(kernels_of_step(operator, steps.tensors))
    return tuple({(kernel.entry, fingerprint(kernel)): kernel for kernel in found}.values())


def kernel_parts(
    kernels: Sequence[Kernel], architectures: Sequence[str], *, report: Callable[[float], None] | None = None
) -> dict[str, bytes]:
    """Compile kernels to a cubin per architecture and to PTX, and return the code by the name of its part.

    Args:
        kernels: what to compile.
        architectures: ``sm_NN`` names.
        report: is called with the finished share of the work.

    Raises:
        KernelError: a kernel cannot be compiled.
        MissingDependencyError: there is no compiler.
    """
    major, _minor = compiler_version()
    parts: dict[str, bytes] = {}
    for index, kernel in enumerate(kernels):
        for name, code in compile_kernels(kernel, architectures, cuda_major=major).items():
            parts[kernel_part(kernel.entry, fingerprint(kernel), name)] = code.code
        if report is not None:
            report((index + 1) / len(kernels))
    return parts
