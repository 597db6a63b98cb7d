"""Compile the kernels of an artifact: those of its operator steps, and the one that preprocesses images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from frcnn.errors import UsageError
from frcnn.exporter.engine.steps import Steps
from frcnn.plugins.cuda.compiler import OLDEST_PTX, compile_kernel, fingerprint, supported_architectures
from frcnn.plugins.operator_kernels import kernels_of_step
from frcnn.plugins.preprocess.kernel import kernels_of_transform
from frcnn.spec import TransformSpec
from frcnn.spec.engine import Target, kernel_part
from frcnn.spec.supported_gpus import RTX_DEFAULT, architecture_of

_DATA_CENTRE: Final = ("9.0", "10.0")


def check_architectures(wanted: Sequence[str] | None, target: Target) -> tuple[str, ...]:
    """Return the ``sm_NN`` to compile for; raise UsageError for one that NVRTC does not know.

    The default is TensorRT-RTX's, and for ONNX Runtime, which runs on every GPU, those of data centres too.
    """
    known = supported_architectures()
    if wanted is None:
        capabilities = (*RTX_DEFAULT, *(_DATA_CENTRE if target == "onnxruntime" else ()))
        default = set(map(architecture_of, capabilities))
        return tuple(name for name in known if name in default)  # oldest first
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"kernel architecture: expected some of {', '.join(known)}, got {name!r}",
                hint=f"{OLDEST_PTX} is always added, which serves newer GPUs",
            )
    return tuple(dict.fromkeys(wanted))


def kernel_parts(
    steps: Steps,
    transform: TransformSpec,
    architectures: Sequence[str],
    *,
    report: Callable[[float], None] | None = None,
) -> dict[str, bytes]:
    """Compile the kernels of the steps and of the preprocessing to a cubin per architecture and to PTX.

    Returns the code by the name of its part. ``report`` is called with the finished share of the work. Raises
    KernelError if there is no kernel for an operator's attributes and tensors, or it cannot be compiled.
    """
    images: Any = steps.tensors["images"].element  # a kernel refuses what it cannot take
    needed = list(kernels_of_transform(transform, images))
    for operator in steps.operators:
        needed.extend(kernels_of_step(operator, steps.tensors))
    kernels = {(kernel.entry, fingerprint(kernel)): kernel for kernel in needed}
    parts: dict[str, bytes] = {}
    for done, ((entry, code_id), kernel) in enumerate(kernels.items(), 1):
        for name in (*architectures, OLDEST_PTX):
            parts[kernel_part(entry, code_id, name)] = compile_kernel(kernel, name)
        if report is not None:
            report(done / len(kernels))
    return parts
