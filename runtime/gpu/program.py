"""The steps of an artifact with what all workers share: engines, and loaded kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.cuda.driver import LoadedKernel
from frcnn.plugins.cuda.launch import LoadedOperator
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import kernels_of_step
from frcnn.plugins.preprocess.kernel import kernels_of_transform
from frcnn.runtime.gpu.device import Device, Engine
from frcnn.spec.engine import EngineManifest, OperatorStep, kernel_part

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
class Program:
    """What the steps of a detection run: engines by part, operators by the step's index.

    ``preprocess`` makes ``images`` from pixels.
    """

    manifest: EngineManifest
    engines: Mapping[str, Engine]
    preprocess: LoadedOperator
    operators: Mapping[int, LoadedOperator]


def load_program(
    manifest: EngineManifest, read_part: Callable[[str], bytes], engines: Mapping[str, Engine], device: Device
) -> Program:
    """Load an artifact's kernels; the device must be active on this thread."""
    _check_tensors(manifest)

    def load(name: str, kernels: Iterable[Kernel]) -> LoadedOperator:
        loaded = []
        for kernel in kernels:
            code = read_part(_part_of(kernel, manifest, device.architecture))
            handle = device.driver.load(kernel, code)
            loaded.append(LoadedKernel(kernel=kernel, handle=handle, driver=device.driver))
        return LoadedOperator(name, loaded)

    images: Any = manifest.tensors["images"].element  # a kernel refuses what it cannot take
    transform = manifest.source.model.transform
    preprocess = kernels_of_transform(transform, images)
    operators = {
        index: load(step.operator, kernels_of_step(step, manifest.tensors))
        for index, step in enumerate(manifest.steps)
        if isinstance(step, OperatorStep)
    }
    loaded = load("preprocess", preprocess)
    return Program(manifest=manifest, engines=engines, preprocess=loaded, operators=operators)


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
