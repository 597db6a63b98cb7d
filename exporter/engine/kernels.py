"""Compile the kernels that an artifact carries: those of its operator steps, and the one that prepares images."""

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
from frcnn.plugins.kernel import Element, Kernel
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.spec import TransformSpec
from frcnn.spec.engine import EngineTensor, kernel_part
from frcnn.spec.supported_gpus import RTX_DEFAULT, architecture_of

__all__ = ["check_architectures", "kernel_parts", "needed_kernels"]


def check_architectures(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the architectures to compile for.

    Args:
        wanted: ``sm_NN``; None: of the GPUs that TensorRT-RTX's engines are for by default, all that the compiler
            knows. For others there is PTX, which the driver compiles at the first load.

    Raises:
        UsageError: the compiler does not know one of them.
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
    """Return the kernels that a runtime launches for these steps, each once.

    Raises:
        KernelError: there is none for an operator's attributes and tensors.
    """
    (preprocess,) = preprocess_kernels(
        element=_element(steps.tensors["images"]), image_mean=transform.image_mean, image_std=transform.image_std
    )
    found = [preprocess]
    for operator in steps.operators:
        found.extend(kernels_of_step(operator, steps.tensors))
    return tuple({(kernel.entry, fingerprint(kernel)): kernel for kernel in found}.values())


def kernel_parts(
    kernels: Sequence[Kernel], architectures: Sequence[str], *, report: Callable[[float], None] | None = None
) -> dict[str, bytes]:
    """Compile kernels and return the code by the name of its part: a cubin an architecture, and PTX.

    Args:
        kernels: what to compile.
        architectures: ``sm_NN``.
        report: told the share of the work that is done.

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


def _element(images: EngineTensor) -> Element:
    if images.element not in ("float32", "float16", "bfloat16"):
        raise KernelError(f"images must be float32, float16 or bfloat16, got {images.element}")
    return images.element
