"""The steps of an artifact with what all workers share: engines, and loaded kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.cuda.driver import LoadedKernel
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import kernels_of_step, wiring_of
from frcnn.plugins.operator_plan import OperatorWiring
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.runtime.gpu.device import Device, Engine
from frcnn.spec.engine import EngineManifest, EngineStep, OperatorStep, kernel_part

__all__ = ["ELEMENT_DTYPES", "LoadedOperator", "Program", "load_program"]

ELEMENT_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),  # NumPy has no such type: its bits
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
_ELEMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "images": ("float32", "float16", "bfloat16"),
    "image_sizes": ("int32",),
    "num_detections": ("int32",),
    "boxes": ("float32",),
    "scores": ("float32",),
    "labels": ("int32",),
}
"""The types that each input and output of a detector may have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedOperator:
    """An operator's step with its loaded kernels, in order of execution."""

    step: OperatorStep
    wiring: OperatorWiring
    kernels: tuple[LoadedKernel, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """The steps of a detection, ready to be bound to shapes; ``preprocess`` makes ``images`` from pixels."""

    manifest: EngineManifest
    engines: Mapping[str, Engine]
    preprocess: LoadedKernel
    steps: tuple[EngineStep | LoadedOperator, ...]


def load_program(
    manifest: EngineManifest, read_part: Callable[[str], bytes], engines: Mapping[str, Engine], device: Device
) -> Program:
    """Load an artifact's kernels; the device must be active on this thread."""
    _check_tensors(manifest)

    def load(kernel: Kernel) -> LoadedKernel:
        code = read_part(_part_of(kernel, manifest, device.architecture))
        return LoadedKernel(kernel=kernel, handle=device.driver.load(kernel, code), driver=device.driver)

    images: Any = manifest.tensors["images"].element  # a kernel refuses what it cannot take
    transform = manifest.source.model.transform
    (preprocess,) = preprocess_kernels(element=images, image_mean=transform.image_mean, image_std=transform.image_std)
    steps: list[EngineStep | LoadedOperator] = []
    for step in manifest.steps:
        if isinstance(step, EngineStep):
            steps.append(step)
            continue
        kernels = kernels_of_step(step, manifest.tensors)
        loaded = tuple(load(kernel) for kernel in kernels)
        steps.append(LoadedOperator(step=step, wiring=wiring_of(step.operator, kernels), kernels=loaded))
    return Program(manifest=manifest, engines=engines, preprocess=load(preprocess), steps=tuple(steps))


def _part_of(kernel: Kernel, manifest: EngineManifest, architecture: str) -> str:
    """Return the part with a kernel's code for an architecture, which ``check_runs_here`` has found in the manifest."""
    version = fingerprint(kernel)
    for name in manifest.code_for(architecture):
        part = kernel_part(kernel.entry, version, name)
        if part in manifest.parts:
            return part
    raise ArtifactError(
        f"the kernel {kernel.entry} of this version of frcnn is not in the artifact: another version built it",
        hint=manifest.build_command("model.frcnn"),
    )


def _check_tensors(manifest: EngineManifest) -> None:
    """Refuse an artifact whose inputs and outputs are not a detector's."""
    for name, elements in _ELEMENTS.items():
        found = manifest.tensors[name]
        if found.element not in elements or found.layout != "planar":
            raise ArtifactError(
                f"the tensor {name} must be {' or '.join(elements)} and planar, got {found.element} and {found.layout}",
                hint=manifest.build_command("model.frcnn"),
            )
