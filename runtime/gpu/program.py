"""An artifact's steps with everything loaded that all workers share: engines, and kernels ready to be launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.cuda.driver import LoadedKernel
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import kernels_of
from frcnn.plugins.operator_plan import OperatorWiring
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.runtime.gpu.device import Device, Engine
from frcnn.spec.engine import EngineManifest, EngineStep, EngineTensor, OperatorStep, kernel_part

__all__ = ["ELEMENT_DTYPES", "LoadedOperator", "Program", "load_program"]

ELEMENT_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),  # NumPy has no such type: its bits
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
_OUTPUT_ELEMENTS: Final = {"num_detections": "int32", "boxes": "float32", "scores": "float32", "labels": "int32"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedOperator:
    """An operator's step, its kernels loaded.

    Attributes:
        step: what the manifest says of it.
        wiring: how the kernels hang together.
        kernels: in the order in which they run.
    """

    step: OperatorStep
    wiring: OperatorWiring
    kernels: tuple[LoadedKernel, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """What a detection does, ready to be bound to shapes.

    Attributes:
        manifest: what the artifact says of itself.
        engines: by part.
        preprocess: the kernel that turns images into ``images``.
        steps: in order.
    """

    manifest: EngineManifest
    engines: Mapping[str, Engine]
    preprocess: LoadedKernel
    steps: tuple[EngineStep | LoadedOperator, ...]


def load_program(
    manifest: EngineManifest, read_part: Callable[[str], bytes], engines: Mapping[str, Engine], device: Device
) -> Program:
    """Load an artifact's kernels; the device must be active on this thread.

    Args:
        manifest: what the artifact says of itself.
        read_part: returns a part of it.
        engines: its engines by part.
        device: what the kernels are loaded on.

    Raises:
        ArtifactError: a kernel is not in the artifact as this frcnn has it, or tensors are not a detector's.
        KernelError: the driver refuses a kernel.
    """
    _check_tensors(manifest)

    def load(kernel: Kernel) -> LoadedKernel:
        code = read_part(_part_of(kernel, manifest, device.architecture))
        return LoadedKernel(kernel=kernel, handle=device.driver.load(kernel, code), driver=device.driver)

    transform = manifest.source.model.transform
    (preprocess,) = preprocess_kernels(
        element=_element(manifest.tensors["images"]), image_mean=transform.image_mean, image_std=transform.image_std
    )
    steps: list[EngineStep | LoadedOperator] = []
    for step in manifest.steps:
        if isinstance(step, EngineStep):
            steps.append(step)
            continue
        maps = manifest.tensors[step.inputs[-1]]  # of suppression the scores, which have no say in it
        kernels = kernels_of(step.operator, step.attributes, element=_element(maps), layout=maps.layout)
        loaded = tuple(load(kernel) for kernel in kernels)
        steps.append(LoadedOperator(step=step, wiring=OperatorWiring(kernels), kernels=loaded))
    return Program(manifest=manifest, engines=engines, preprocess=load(preprocess), steps=tuple(steps))


def _part_of(kernel: Kernel, manifest: EngineManifest, architecture: str) -> str:
    """Return the part with a kernel's code for an architecture: its own machine code, else the newest PTX it takes."""
    version = fingerprint(kernel)
    ptx = [
        name
        for name in manifest.architectures
        if name.startswith("compute_") and _number(name) <= _number(architecture)
    ]
    for name in (architecture, *sorted(ptx, key=_number, reverse=True)):
        part = kernel_part(kernel.entry, version, name)
        if part in manifest.parts:
            return part
    if any(part.startswith(f"kernels/{kernel.entry}-{version}.") for part in manifest.parts):
        raise ArtifactError(
            f"the kernel {kernel.entry} is in the artifact for {', '.join(manifest.architectures)}, this GPU is "
            f"{architecture}",
            hint=manifest.build_command("model.frcnn"),
        )
    raise ArtifactError(
        f"the kernel {kernel.entry} of this version of frcnn is not in the artifact: another version built it",
        hint=manifest.build_command("model.frcnn"),
    )


def _number(architecture: str) -> int:
    return int("".join(filter(str.isdigit, architecture)) or 0)


def _element(tensor: EngineTensor) -> Any:
    """Return a tensor's type for a kernel, which refuses what it cannot take."""
    return tensor.element


def _check_tensors(manifest: EngineManifest) -> None:
    """Refuse an artifact whose inputs and outputs are not a detector's.

    Raises:
        ArtifactError: they are not.
    """
    expected = {"image_sizes": "int32", **_OUTPUT_ELEMENTS}
    for name, element in expected.items():
        found = manifest.tensors[name]
        if found.element != element or found.layout != "planar":
            raise ArtifactError(
                f"the tensor {name} must be {element} and planar, got {found.element} and {found.layout}",
                hint=manifest.build_command("model.frcnn"),
            )
    images = manifest.tensors["images"]
    if images.element not in ("float32", "float16", "bfloat16") or images.layout != "planar":
        raise ArtifactError(
            f"the tensor images must be floating and planar, got {images.element} and {images.layout}",
            hint=manifest.build_command("model.frcnn"),
        )
