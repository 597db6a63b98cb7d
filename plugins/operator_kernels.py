"""The kernels of each operator, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins import OPERATORS
from frcnn.plugins.box_detections.kernel import kernels as box_detections_kernels
from frcnn.plugins.kernel import Kernel, check_choice
from frcnn.plugins.multiscale_roi_align.kernel import kernels as multiscale_roi_align_kernels
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as multiscale_roi_pool_kernels
from frcnn.plugins.operator_plan import OperatorWiring
from frcnn.plugins.region_proposals.kernel import kernels as region_proposals_kernels
from frcnn.spec.engine import EngineTensor, OperatorStep

_KERNELS: Final[Mapping[str, Callable[..., tuple[Kernel, ...]]]] = {
    "RegionProposals": region_proposals_kernels,
    "MultiscaleRoIAlign": multiscale_roi_align_kernels,
    "MultiscaleRoIPool": multiscale_roi_pool_kernels,
    "BoxDetections": box_detections_kernels,
}
POOLING: Final = ("MultiscaleRoIAlign", "MultiscaleRoIPool")
"""Operators whose kernels have a layout and take the number of channels."""


def kernels_for(operator: str, attributes: Mapping[str, Any]) -> tuple[Kernel, ...]:
    """Return the kernels of an operator, in the order in which they run.

    Each takes ``element``, the type of its features, beside its attributes, and RoI pooling ``layout``,
    ``output_layout`` and ``channels``. Raises KernelError for an unknown operator or attribute, one that is missing,
    and values that no kernel has.
    """
    check_choice("operator", operator, sorted(_KERNELS))
    attributes = OPERATORS[operator].with_defaults(attributes)
    required = [attribute.name for attribute in OPERATORS[operator].attributes]
    known = [*required, "element", *(("layout", "output_layout", "channels") if operator in POOLING else ())]
    missing = [name for name in required if name not in attributes]
    unknown = [name for name in attributes if name not in known]
    if missing or unknown:
        what = f"needs the attribute {missing[0]!r}" if missing else f"has no attribute {unknown[0]!r}"
        raise KernelError(f"{operator} {what}", hint=f"its attributes are {', '.join(known)}")
    return _KERNELS[operator](**attributes)


def kernels_of_step(step: OperatorStep, tensors: Mapping[str, EngineTensor]) -> tuple[Kernel, ...]:
    """Return the kernels that an operator step of an artifact launches, for the types and layouts of its tensors.

    Errors as :func:`kernels_for`.
    """
    features, output = tensors[step.inputs[-1]], tensors[step.outputs[0]]
    form: dict[str, Any] = {"element": features.element}
    if step.operator in POOLING:
        layouts = ("planar" if tensor.layout == "planar" else "channels_last" for tensor in (features, output))
        form |= dict(zip(("layout", "output_layout"), layouts, strict=True)) | {"channels": features.channels}
    return kernels_for(step.operator, {**step.attributes, **form})


def wiring_of(operator: str, kernels: Sequence[Kernel]) -> OperatorWiring:
    """Return the wiring of an operator's kernels, with its inputs in the order of its spec."""
    spec = OPERATORS.get(operator)
    if spec is None:
        return OperatorWiring(kernels)
    made = {tensor.name for kernel in kernels for tensor in kernel.outputs}
    read = {tensor.name for kernel in kernels for tensor in kernel.inputs} - made
    return OperatorWiring(kernels, spec.input_names(spec.levels_of(len(read))))
